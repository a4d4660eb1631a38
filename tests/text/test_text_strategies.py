"""`TextGenerator` with search strategies, several sequences, prefixes and draft models."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgpt2 import GenerationConfig, TextGenerator

TEXTS = ["abc", "é the", "the other one"]
NEW = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def parts(gen):
    return gen.model, gen.tokenizer


def generate_ids(gen, text, options):
    """The new tokens of each sequence that `model.generate` returns for one text."""
    ids = gen.tokenizer([text])["input_ids"]
    out = gen.model.generate(ids, jit_compile=False, return_dict_in_generate=True, **options)
    new = out.sequences.numpy()[:, ids.shape[1] :]
    return [row[:count].tolist() for row, count in zip(new, out.num_tokens.numpy(), strict=True)]


STRATEGIES = {
    "beams": NEW | {"num_beams": 3, "length_penalty": 0.5},
    "groups": NEW | {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.5},
    "contrastive": NEW | {"penalty_alpha": 0.6, "top_k": 4},
    "several beams": NEW | {"num_beams": 3, "num_return_sequences": 2},
    "best of": NEW | {"do_sample": True, "seed": 3, "best_of": 4, "num_return_sequences": 2},
    "penalties": NEW | {"no_repeat_ngram_size": 2, "presence_penalty": 0.7},
}


@pytest.mark.long
@pytest.mark.parametrize("name", STRATEGIES)
def test_texts_equal_model_generate(gen, name):
    """Rows of one batch equal `model.generate` of each text alone."""
    options = STRATEGIES[name]
    found = gen.generate(TEXTS, details=True, **options)
    for row, text in enumerate(TEXTS):
        records = found[row] if isinstance(found[row], list) else [found[row]]
        own = options | ({"seed": 3 + row} if "seed" in options else {})
        assert [one.token_ids for one in records] == generate_ids(gen, text, own)
        raw = gen.tokenizer.detokenize_bytes([records[0].token_ids], skip_special_tokens=True)
        assert records[0].text_bytes == raw.numpy()[0]
        if "num_beams" in options:
            assert [one.score for one in records] == sorted(
                (one.score for one in records), reverse=True
            )


@pytest.mark.long
def test_num_return_sequences_and_best_of(gen):
    """The most likely sequences come first; each prompt has a list of its own."""
    options = NEW | {"temperature": 1.0, "seed": 3}
    every = gen.generate("abc", num_return_sequences=4, details=True, **options)
    assert len({one.text for one in every}) == 4
    best = gen.generate("abc", num_return_sequences=2, best_of=4, details=True, **options)
    mean = lambda one: one.logprob / len(one.token_ids)  # noqa: E731
    expected = sorted(every, key=mean, reverse=True)[:2]
    assert [one.text for one in best] == [one.text for one in expected]
    assert every[0].text == gen.generate("abc", **options)  # the first has the prompt's seed
    nested = gen.generate(["abc", "é"], num_return_sequences=4, **options)
    assert nested[0] == [one.text for one in every] and len(nested[1]) == 4


@pytest.mark.long
def test_prefix_precedes_every_prompt(parts, gen):
    options = NEW | {"repetition_penalty": 1.4, "temperature": [0.0, 1.0], "seed": 5}
    prefixed = TextGenerator(*parts, jit_compile=False, prefix="é the ")
    found = prefixed.generate(["abc", "bc"], details=True, **options)
    expected = gen.generate(["é the abc", "é the bc"], details=True, **options)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert [one.prompt_tokens for one in found] == [3, 2]  # of the prompt alone
    assert "".join(prefixed.stream("abc", **NEW)) == prefixed.generate("abc", **NEW)


@pytest.mark.long
def test_negative_prompts(parts, gen):
    options = NEW | {"guidance_scale": 2.5}
    one = gen.generate(TEXTS, negative_prompt="the", **options)
    each = gen.generate(TEXTS, negative_prompt=["the", "er er", "the"], **options)
    assert [one[0], one[2]] == [each[0], each[2]]
    ids, negative_ids = (gen.tokenizer([text])["input_ids"] for text in (TEXTS[1], "er er"))
    found = gen.model.generate(ids, negative_prompt_ids=negative_ids, jit_compile=False, **options)
    new = found[:, ids.shape[1] :]
    expected = gen.tokenizer.detokenize(new, skip_special_tokens=True).numpy()[0].decode()
    assert each[1] == expected
    own = TextGenerator(*parts, jit_compile=False, negative_prompt="the")
    assert own.generate(TEXTS, **options) == one
    with pytest.raises(ValueError, match="acts with guidance only"):
        gen.generate("abc", negative_prompt="the")


@pytest.mark.long
def test_assistant_keeps_the_text(parts, gen):
    assisted = TextGenerator(*parts, jit_compile=False, assistant=parts[0])
    options = {"max_new_tokens": 20, "temperature": [0.0, 0.8, 1.0], "seed": 2}
    assert assisted.generate(TEXTS, **options) == gen.generate(TEXTS, **options)
    assert "".join(assisted.stream("abc", **NEW)) == gen.generate("abc", **NEW)


@pytest.mark.long
def test_max_time(gen):
    long = {"max_new_tokens": 50}
    free = gen.generate(TEXTS, max_time=600.0, **long)  # also compiles the programs
    assert free == gen.generate(TEXTS, **long)
    start = time.perf_counter()
    found = gen.generate(TEXTS, max_time=1e-6, details=True, **long)
    assert {one.finish_reason for one in found} == {"time"}
    assert all(1 <= len(one.token_ids) < 50 for one in found)
    assert time.perf_counter() - start < 30
    for one, text in zip(found, free, strict=True):
        assert text.startswith(one.text.rstrip("\ufffd"))


@pytest.mark.long
def test_top_logprobs(gen):
    record = gen.generate("abc", top_logprobs=3, details=True, **NEW)
    assert len(record.top_logprobs) == 8
    for token, logprob, top in zip(
        record.token_ids, record.token_logprobs, record.top_logprobs, strict=True
    ):
        assert max(top, key=top.get) == token  # greedy search chooses the most likely
        assert top[token] == pytest.approx(logprob, abs=1e-5) and len(top) == 3
    assert gen.generate("abc", details=True, **NEW).top_logprobs is None


CONFIGS = {
    "beams": {"num_beams": 3, "no_repeat_ngram_size": 3},
    "n-grams": {"no_repeat_ngram_size": 2, "bad_words_ids": [[101], [116, 104]]},
}


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_same_text_when_called_in_a_graph_and_reloaded(parts, tmp_path, name):
    config = GenerationConfig(max_new_tokens=8, **CONFIGS[name])
    generator = TextGenerator(*parts, config, jit_compile=False)
    expected = generator.generate(TEXTS)
    assert expected != TextGenerator(*parts, jit_compile=False).generate(TEXTS, **NEW)
    texts = tf.constant(TEXTS)
    spec = [tf.TensorSpec([None], tf.string)]
    given = keras.Input((), dtype="string")
    outputs = {
        "called": generator(texts),
        "graph": tf.function(generator.__call__, input_signature=spec, autograph=False)(texts),
        "functional": keras.Model(given, generator(given))(texts),
    }
    report = generator.export(
        tmp_path / "1", check=False, jit_compile=False, signatures=("serving_default",)
    )
    served = tf.saved_model.load(report.path).signatures["serving_default"]
    outputs["reloaded"] = served(texts)["text"]
    for way, found in outputs.items():
        assert [text.decode() for text in np.asarray(found)] == expected, way
