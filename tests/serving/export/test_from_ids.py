"""`generate_ids` and `inspect_ids`: the ids of a prompt are the ids that are read."""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2.serving.export.signatures.from_ids import write_ids


@pytest.fixture(scope="module")
def loaded(report):
    """The functions of the export, which fill in defaults."""
    model = tf.saved_model.load(report.path)
    yield {name: getattr(model, name) for name in NAMES}  # the model owns the weights


END = "<|endoftext|>"
NAMES = ("generate", "inspect", "generate_ids", "inspect_ids")
TEXTS = ["ab", "", "abba cab"]


def ids_of(gen, texts):
    return write_ids(gen.tokenizer.tokenize(texts))


def same(one, other):
    for name, value in other.items():
        if value.dtype == tf.float32:
            np.testing.assert_allclose(one[name], value, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(one[name], value, err_msg=name)


def test_the_ids_of_a_text_give_what_the_text_gives(gen, loaded):
    ids = ids_of(gen, TEXTS)
    same(loaded["generate_ids"](ids=ids), loaded["generate"](text=tf.constant(TEXTS)))
    found = dict(loaded["inspect_ids"](ids=ids))
    expected = dict(loaded["inspect"](text=tf.constant(TEXTS)))
    chances = expected.pop("top_probabilities")
    same({name: found[name] for name in expected}, expected)
    follows = found["ranks"].numpy() > 0
    np.testing.assert_allclose(np.exp(found["top_logprobs"])[follows], chances[follows], atol=1e-5)
    sizes = tf.strings.length(found["token_bytes"])
    np.testing.assert_array_equal(found["text_sizes"], sizes)  # no special token in them


def test_what_looks_like_a_special_token_is_read_as_it_is(gen, loaded):
    (special,) = gen.tokenizer.tokenize(END).numpy().tolist()
    letters = [int(gen.tokenizer.tokenize(letter).numpy()[0]) for letter in END]
    assert special not in letters
    ids = tf.constant([" ".join(map(str, letters)), f"97 {special} 98"])
    found = {name: value.numpy() for name, value in loaded["inspect_ids"](ids=ids).items()}
    assert found["num_tokens"].tolist() == [len(END), 3]
    assert found["token_bytes"][0].tolist() == [letter.encode() for letter in END]
    assert found["text_sizes"][0].tolist() == [1] * len(END)
    assert found["token_bytes"][1, :3].tolist() == [b"a", END.encode(), b"b"]
    assert found["text_sizes"][1, :3].tolist() == [1, 0, 1]
    outputs = loaded["generate_ids"](ids=ids)
    assert outputs["prompt_tokens"].numpy().tolist() == [len(END), 3]


def test_one_number_for_a_token_in_its_place_and_among_the_likeliest(gen, loaded):
    prompt = ids_of(gen, ["ab"])
    options = {"temperature": tf.constant([0.0]), "stop": tf.constant([[""]])}
    outputs = loaded["generate_ids"](ids=prompt, **options)
    count = int(outputs["num_tokens"][0])
    new = [str(one) for one in outputs["token_ids"].numpy()[0, :count]]
    found = loaded["inspect_ids"](ids=prompt + " " + " ".join(new))
    assert count == 6 and found["ranks"].numpy()[0, 2:].tolist() == [1] * 6  # greedy
    logprobs, likeliest = found["token_logprobs"].numpy(), found["top_logprobs"].numpy()
    assert logprobs[0, 2:].tolist() == likeliest[0, 2:, 0].tolist()
    np.testing.assert_allclose(logprobs[:, 2:], outputs["token_logprobs"], atol=1e-5)


def test_ids_that_no_token_has_mark_their_row_alone(gen, loaded):
    size = gen.model.config.vocab_size
    ids = tf.constant([f"1 {size}", "1 2", "x", "-1", "99999999999"])
    outputs = loaded["generate_ids"](ids=ids)
    reasons = outputs["finish_reason"].numpy().tolist()
    assert [one == b"unknown_token" for one in reasons] == [True, False, True, True, True]
    assert outputs["num_tokens"].numpy()[1] > 0
