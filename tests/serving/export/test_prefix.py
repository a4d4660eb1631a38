"""A stored prefix comes before the texts of every signature, as if they began with it."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy_text
from tfgpt2 import GenerationConfig, TextGenerator
from tfgpt2.serving.export.signatures import registry
from tfgpt2.serving.export.signatures.base import SignatureOptions
from tfgpt2.serving.export.signatures.from_ids import write_ids

PREFIX = "é the er"
TEXTS = ["abc", "", "the er the", "z" * 90]
TOP = 4


@pytest.fixture(scope="module")
def parts():
    tokens = toy_text.tokenizer()
    return toy_text.model(tokens), tokens


def signatures(generator):
    options = SignatureOptions(top=TOP, inspect_top=TOP)
    return registry.create(generator, options)


@pytest.fixture(scope="module")
def prefixed(parts):
    config = GenerationConfig(max_new_tokens=5)
    return signatures(TextGenerator(*parts, config, jit_compile=False, prefix=PREFIX))


@pytest.fixture(scope="module")
def logprobs(parts):
    """For each text, its ids that fit, and log-probabilities and states of the model itself.

    The first place is that of the prefix's last token.
    """
    model, tokenizer = parts
    before = tokenizer.tokenize(PREFIX).numpy().tolist()
    found = []
    for text in TEXTS:
        ids = tokenizer.tokenize([text]).to_list()[0][-(toy_text.CONTEXT - len(before)) :]
        read = tf.constant([[*before, *ids]])
        out = model(read, output_hidden_states=True)
        logits, hidden = (x[0, len(before) - 1 :] for x in (out.logits, out.hidden_states[-1]))
        found.append((ids, tf.nn.log_softmax(logits).numpy(), hidden.numpy()))
    return found


def call(signature, text):
    return {name: value.numpy() for name, value in signature({"text": tf.constant(text)}).items()}


def close(one, other):
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_score(prefixed, logprobs):
    found = call(prefixed["score"], TEXTS)
    for row, (ids, expected, _) in enumerate(logprobs):
        values = [expected[place, token] for place, token in enumerate(ids)]
        assert found["num_tokens"][row] == found["text_tokens"][row] == len(ids)
        close(found["token_logprobs"][row, : len(ids)], values)
        assert not found["token_logprobs"][row, len(ids) :].any()
        np.testing.assert_allclose(found["logprob"][row], np.sum(values), rtol=1e-5, atol=1e-5)
    assert found["truncated"].tolist() == [0, 0, 0, 90 - len(logprobs[3][0])]
    assert len(logprobs[3][0]) == toy_text.CONTEXT - 4  # the prefix has 4 tokens


def test_next_token_and_embed(prefixed, logprobs):
    following, vectors = call(prefixed["next_token"], TEXTS), call(prefixed["embed"], TEXTS)
    for row, (ids, expected, hidden) in enumerate(logprobs):
        best = np.argsort(-expected[-1], kind="stable")[:TOP]
        assert following["token_ids"][row].tolist() == best.tolist()
        close(following["logprobs"][row], expected[-1][best])
        assert following["prompt_tokens"][row] == vectors["num_tokens"][row] == len(ids)
        np.testing.assert_allclose(vectors["last"][row], hidden[-1], atol=1e-4)
        mean = hidden[1:].mean(axis=0) if ids else hidden[0]
        np.testing.assert_allclose(vectors["mean"][row], mean, atol=1e-4)


@pytest.mark.parametrize("name", ["inspect", "inspect_ids"])
def test_inspect(prefixed, logprobs, parts, name):
    texts = TEXTS if name == "inspect" else write_ids(parts[1].tokenize(TEXTS))
    found = call(prefixed[name], texts)
    for row, (ids, expected, _) in enumerate(logprobs):
        assert found["num_tokens"][row] == len(ids)
        for place, token in enumerate(ids):
            before = expected[place]
            assert found["ranks"][row, place] == 1 + np.sum(before > before[token])
            close(found["token_logprobs"][row, place], before[token])
            best = np.argsort(-before, kind="stable")[:TOP]
            if name == "inspect_ids":
                assert found["top_ids"][row, place].tolist() == best.tolist()
                close(found["top_logprobs"][row, place], before[best])
            else:
                close(found["top_probabilities"][row, place], np.exp(before[best]))


@pytest.mark.long
def test_the_most_likely_next_token_is_that_of_generate(prefixed):
    generate = prefixed["generate"]
    rows = generate.to_rows({"text": tf.constant(TEXTS[:3]), "temperature": tf.zeros([1])})
    first = generate(rows)["token_ids"].numpy()[:, 0]
    found = call(prefixed["next_token"], TEXTS[:3])["token_ids"][:, 0]
    assert found.tolist() == first.tolist()


def test_a_text_with_an_unknown_token_has_no_values(prefixed):
    found = call(prefixed["inspect_ids"], ["97 100000", "97 98"])
    assert found["num_tokens"].tolist() == [0, 2] and not found["ranks"][0].any()


@pytest.mark.long
def test_tokens_are_those_that_are_read(parts):
    """The special token before a text stands before the prefix, and not again after it."""
    model = parts[0]
    tokenizer = toy_text.tokenizer(add_bos_token=True)
    plain, after = (
        signatures(TextGenerator(model, tokenizer, jit_compile=False, prefix=prefix))
        for prefix in (None, PREFIX)
    )
    (before,) = tokenizer.spec.prefix_ids
    assert call(plain["tokenize"], ["ab"])["ids"].tolist() == [[before, 97, 98]]
    assert call(after["tokenize"], ["ab"])["ids"].tolist() == [[97, 98]]
    assert call(after["inspect"], ["ab"])["num_tokens"].tolist() == [2]
    rows = after["generate"].to_rows({"text": tf.constant(["ab"])})
    assert after["generate"](rows)["prompt_tokens"].numpy().tolist() == [2]
