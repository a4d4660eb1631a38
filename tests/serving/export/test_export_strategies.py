"""Exports with beam search, several texts, constraints, prefixes and draft models, without XLA."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy_text
from tests.support.saved_model_files import read_meta_graph
from tfgpt2 import GenerationConfig, TextGenerator
from tfgpt2.serving import Batching

TEXT = ["abc", "é the", "the"]
FEW = ("generate", "serving_default")


@pytest.fixture(scope="module")
def parts():
    tokens = toy_text.tokenizer()
    return toy_text.model(tokens), tokens


def exported(generator, path, **options):
    """Writes an export with the self-check off and loads its signatures."""
    options = {"check": False, "jit_compile": False, "signatures": FEW} | options
    report = generator.export(path / "1", **options)
    return tf.saved_model.load(report.path).signatures, report


def assert_same_records(outputs, expected):
    """Compares outputs with records of the live model, one or a list for each row."""
    for row, one in enumerate(expected):
        for place, record in enumerate(one if isinstance(one, list) else [one]):
            at = (row, place) if isinstance(one, list) else (row,)
            count = int(outputs["num_tokens"].numpy()[at])
            assert outputs["text"].numpy()[at].decode() == record.text
            assert outputs["token_ids"].numpy()[at][:count].tolist() == record.token_ids
            assert outputs["prompt_tokens"].numpy()[at] == record.prompt_tokens
            assert outputs["logprob"].numpy()[at] == pytest.approx(record.logprob, abs=1e-3)
            if "score" in outputs:
                assert outputs["score"].numpy()[at] == pytest.approx(record.score, abs=1e-3)


@pytest.mark.long
def test_a_stored_prefix_comes_before_every_prompt(parts, tmp_path):
    config = GenerationConfig(max_new_tokens=9)
    plain = TextGenerator(*parts, config, jit_compile=False)
    served, report = exported(
        plain, tmp_path, prefix="é the er", check=True, signatures=("serving_default", "score")
    )
    outputs = served["serving_default"](tf.constant(["abc", "the x", "b" * 90]))
    texts = plain.generate(["é the erabc", "é the erthe x"])
    assert [one.decode() for one in outputs["text"].numpy()][:2] == texts
    assert texts != plain.generate(["abc", "the x"])  # the prefix has an effect
    # Tokens of the prompt alone; a long one loses its beginning, and the prefix stays.
    tokens = parts[1].tokenize(["abc", "the x", "é the er"]).row_lengths().numpy().tolist()
    assert outputs["prompt_tokens"].numpy()[:2].tolist() == tokens[:2]
    read = int(outputs["prompt_tokens"].numpy()[2])
    assert read + int(outputs["truncated"].numpy()[2]) == 90 and 0 < read <= 64 - 9 - tokens[2]
    scores = plain.pipeline.score(tf.constant(["é the erabc"]))["token_logprobs"]
    found = served["score"](tf.constant(["abc"]))["token_logprobs"]
    np.testing.assert_allclose(found, scores[:, tokens[2] :], atol=1e-4)
    assert report.checked


@pytest.mark.long
def test_an_empty_prefix_is_none(parts, tmp_path):
    config = GenerationConfig(max_new_tokens=9)
    inside = TextGenerator(*parts, config, jit_compile=False, prefix="é the er")
    plain = TextGenerator(*parts, config, jit_compile=False)
    served, _ = exported(inside, tmp_path, prefix="", signatures=("serving_default",))
    outputs = served["serving_default"](tf.constant(TEXT))
    assert_same_records(outputs, plain.generate(TEXT, details=True))


@pytest.mark.long
@pytest.mark.parametrize("gathered", [pytest.param(False, marks=pytest.mark.long), True])
def test_beams_with_several_texts(parts, tmp_path, gathered):
    config = GenerationConfig(
        max_new_tokens=8, num_beams=4, num_return_sequences=3, length_penalty=0.5
    )
    generator = TextGenerator(*parts, config, jit_compile=False)
    expected = generator.generate(TEXT, details=True)
    options = (
        {"batching": Batching("graph", batch_timeout_micros=0)} if gathered else {"check": True}
    )
    served, report = exported(generator, tmp_path, batch_sizes=[2], **options)
    text = tf.constant(TEXT)
    outputs = served["serving_default"](text)  # three rows run in parts of two
    assert outputs["text"].shape == (3, 3) and outputs["token_ids"].shape[:2] == (3, 3)
    assert_same_records(outputs, expected)
    assert np.all(np.diff(outputs["score"].numpy(), axis=1) <= 1e-6)  # the best first
    meta = read_meta_graph(report.path).signature_def["serving_default"].outputs
    assert [axis.size for axis in meta["token_ids"].tensor_shape.dim] == [-1, 3, -1]
    for value in served["serving_default"](text[:0]).values():
        assert value.shape[0] == 0


@pytest.mark.long
def test_sampled_texts_with_their_likeliest_tokens(parts, tmp_path):
    config = GenerationConfig(
        max_new_tokens=5,
        do_sample=True,
        num_return_sequences=2,
        best_of=3,
        top_logprobs=2,
        seed=4,
        top_k=0,
    )
    generator = TextGenerator(*parts, config, jit_compile=False)
    served, _ = exported(generator, tmp_path, batch_sizes=[2], signatures=("generate",))
    seeds = tf.constant([4, 5, 6], tf.int64)
    names = {"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0}
    numbers = {name: tf.constant([value]) for name, value in names.items()}
    numbers |= {"max_new_tokens": tf.constant([5]), "min_new_tokens": tf.constant([0]),
                "top_k": tf.constant([0]), "min_p": tf.constant([0.0])}  # fmt: skip
    outputs = served["generate"](
        text=tf.constant(TEXT), seed=seeds, stop=tf.constant([[""]]), **numbers
    )
    expected = generator.generate(TEXT, details=True)
    assert_same_records(outputs, expected)
    assert outputs["top_ids"].shape == (3, 2, outputs["token_ids"].shape[2], 2)
    first = expected[1][0].top_logprobs[0]
    assert outputs["top_ids"].numpy()[1, 0, 0].tolist() == list(first)
    np.testing.assert_allclose(outputs["top_logprobs"][1, 0, 0], list(first.values()), atol=1e-4)


@pytest.mark.parametrize("weights", [None, pytest.param("float16", marks=pytest.mark.long)])
@pytest.mark.long
def test_a_draft_model_changes_no_text(parts, tmp_path, weights):
    config = GenerationConfig(max_new_tokens=12, num_assistant_tokens=3)
    draft = toy_text.model(parts[1])
    for weight in draft.weights:  # near the model, so that some draft tokens are accepted
        weight.assign(weight + 0.05 * np.random.RandomState(1).standard_normal(weight.shape))
    generator = TextGenerator(*parts, config, jit_compile=False, assistant=draft)
    served, report = exported(generator, tmp_path, signatures=("serving_default",), weights=weights)
    outputs = served["serving_default"](tf.constant(TEXT))
    size = sum(np.prod(weight.shape) for weight in [*parts[0].weights, *draft.weights])
    stored = sum(file.stat().st_size for file in (report.path / "variables").iterdir())
    assert stored > size * (2 if weights else 4)
    if weights is None:
        plain = TextGenerator(*parts, config.updated(), jit_compile=False)
        assert_same_records(outputs, plain.generate(TEXT, details=True))


@pytest.mark.long
def test_extra_settings_of_requests(parts, tmp_path):
    generator = TextGenerator(*parts, GenerationConfig(max_new_tokens=20), jit_compile=False)
    names = ("no_repeat_ngram_size", "remove_invalid_values", "presence_penalty")
    served, report = exported(
        generator, tmp_path, signatures=("generate",), inputs=names, batch_sizes=[4]
    )
    defaults = read_meta_graph(report.path).signature_def["generate"].defaults
    found = {name: tf.make_ndarray(value).tolist() for name, value in defaults.items()}
    assert found == {"no_repeat_ngram_size": [0], "remove_invalid_values": [False],
                     "presence_penalty": [0.0], "stop": [[b""]]}  # fmt: skip

    def ask(sizes):
        return served["generate"](
            text=tf.constant(TEXT), no_repeat_ngram_size=tf.constant(sizes),
            remove_invalid_values=tf.constant([False]), presence_penalty=tf.constant([0.0]),
            stop=tf.constant([[""]]),
        )  # fmt: skip

    for sizes in ([1], [0, 1, 2]):  # `[1]` is for all rows
        wide = np.broadcast_to(sizes, [3]).tolist()
        assert_same_records(
            ask(sizes), generator.generate(TEXT, no_repeat_ngram_size=wide, details=True)
        )
    assert ask([0])["text"].numpy().tolist() != ask([1])["text"].numpy().tolist()


@pytest.mark.long
def test_a_constraint_holds_in_the_export(parts, tmp_path):
    config = GenerationConfig(
        max_new_tokens=12, regex=r"[a-c]{2}\d", eos_token_id=parts[0].config.eos_token_id
    )
    generator = TextGenerator(*parts, config, jit_compile=False)
    served, _ = exported(generator, tmp_path, signatures=("serving_default",))
    outputs = served["serving_default"](tf.constant(TEXT))
    assert_same_records(outputs, generator.generate(TEXT, details=True))
    for text in outputs["text"].numpy():
        assert len(text) == 3 and text[:2].strip(b"abc") == b"" and text[2:].isdigit()


@pytest.mark.long
def test_contrastive_search_takes_no_settings_about_draws(parts, tmp_path):
    config = GenerationConfig(max_new_tokens=7, penalty_alpha=0.6, top_k=4)
    generator = TextGenerator(*parts, config, jit_compile=False)
    served, report = exported(generator, tmp_path)
    assert_same_records(
        served["serving_default"](tf.constant(TEXT)), generator.generate(TEXT, details=True)
    )
    inputs = set(read_meta_graph(report.path).signature_def["generate"].inputs)
    assert inputs == {
        "text", "stop", "max_new_tokens", "min_new_tokens", "top_k", "repetition_penalty"
    }  # fmt: skip
    with pytest.raises(ValueError, match="`temperature` only affects sampling"):
        generator.export(tmp_path / "2", inputs=["temperature"], jit_compile=False)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["penalty_alpha"], "only affects contrastive search"),
        (["diversity_penalty"], "only affects diverse beam search"),
        (["typical_p"], "acts on sampling only"),
        (["no_repeat_ngrams"], "no_repeat_ngram_size"),
    ],
)
def test_inputs_without_effect_are_refused(parts, tmp_path, inputs, message):
    generator = TextGenerator(*parts, GenerationConfig(max_new_tokens=7), jit_compile=False)
    with pytest.raises(ValueError, match=message):
        generator.export(tmp_path / "1", inputs=inputs, jit_compile=False)
    assert not list(tmp_path.iterdir())
