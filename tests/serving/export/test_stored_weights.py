"""Weights of exports: int8 gives the answers of the quantized model, in a quarter of the bytes."""

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support import toy_text
from tests.support.saved_model_files import has_compiled_functions, list_operations
from tfgpt2 import TextGenerator
from tfgpt2.nn.one_row import any_number_alike
from tfgpt2.serving.export.export import export_task
from tfgpt2.serving.export.stored_weights import convert

TEXTS = ["abc", "the longest of them", "é"]


def quantized_generator(**options):
    """A generator whose model was quantized in place."""
    generator = toy_text.generator()
    generator.model.quantize("int8")
    return TextGenerator(generator.model, generator.tokenizer, **options)


def stored_bytes(path):
    return sum(file.stat().st_size for file in (path / "variables").iterdir())


def expected_bytes(model):
    return sum(weight.value.numpy().nbytes for weight in model.weights)


@pytest.fixture(scope="module")
def int8_report(tmp_path_factory):
    """The report of an int8 export without XLA."""
    path = tmp_path_factory.mktemp("models") / "1"
    generator = toy_text.generator(jit_compile=False)
    report = generator.export(
        path, weights="int8", jit_compile=False, signatures=["generate"], check=False
    )
    assert not generator.model.is_quantized  # as it was
    return report


def decode_without_cache(generator, text, count):
    """Greedy tokens of the live model, each from a call with all tokens before it."""
    ids = generator.tokenizer([text])["input_ids"].numpy()
    prompt = ids.shape[1]
    while ids.shape[1] < prompt + count and generator.tokenizer.eos_token_id not in ids[0, prompt:]:
        with any_number_alike():  # a prompt of one token is one row here, and of a batch there
            best = generator.model(ids).logits.numpy()[:, -1].argmax(-1)
        ids = np.concatenate([ids, best[:, None]], 1)
    return ids[0, prompt:].tolist()


@pytest.mark.long
def test_an_export_answers_like_the_live_quantized_model(int8_report):
    assert int8_report.weights == "int8"
    loaded = tf.saved_model.load(int8_report.path)
    found = loaded.generate(tf.constant(TEXTS), temperature=tf.constant([0.0]),
                            max_new_tokens=tf.constant([12]))  # fmt: skip
    live = quantized_generator()
    for row, text in enumerate(TEXTS):
        count = found["num_tokens"].numpy()[row]
        assert found["token_ids"].numpy()[row, :count].tolist() == decode_without_cache(
            live, text, 12
        )


@pytest.mark.long
def test_in_a_clean_process(tmp_path):
    generator = toy_text.generator(jit_compile=False)
    report = generator.export(tmp_path / "1", weights="int8", jit_compile=False)
    names = {"generate", "score", "embed", "engine_advance"}
    assert report.checked and names <= set(report.signatures)


def test_integers_are_stored(int8_report):
    size = expected_bytes(quantized_generator().model)
    assert size <= stored_bytes(int8_report.path) <= size * 1.05 + 20_000
    types = [tensor.dtype for tensor in _variables(int8_report.path).values()]
    assert types.count(np.int8) == 4 * 2 + 1
    # Nothing beyond what every server has.
    found = list_operations(int8_report.path)
    assert not [name for name in found if name.startswith("Xla") or "Quantized" in name]


def _variables(path):
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    return {
        n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map() if "OBJECT" not in n
    }


def test_a_quantized_model_is_exported_as_it_is(tmp_path):
    generator = quantized_generator(jit_compile=False)
    report = generator.export(tmp_path / "1", jit_compile=False, check=False, signatures=["score"])
    assert report.weights == "int8"
    for weights in ("float32", "bfloat16"):
        with pytest.raises(ValueError, match=f"(?s)weights='{weights}' needs a float model"):
            generator.export(tmp_path / "2", weights=weights, jit_compile=False)
    assert not (tmp_path / "2").exists()


def test_converted_models(tmp_path):
    model = quantized_generator().model
    assert convert(model, None)[0] is model is convert(model, "int8")[0]
    copy, kept = convert(model, None, compiled=False)
    assert copy is not model and len(kept) == len(model.weights)
    layer = copy.transformer.h[0].mlp.c_fc
    np.testing.assert_array_equal(layer.weight_int8, model.transformer.h[0].mlp.c_fc.weight_int8)
    assert layer.weight_int8.dtype == tf.float32
    ids = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(copy(ids).logits, model(ids).logits)


@pytest.mark.long
def test_task_heads(tmp_path):
    tokens = toy_text.tokenizer()
    config = tfgpt2.GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=32, num_labels=3,
                               vocab_size=tokens.vocab_size, pad_token_id=0)  # fmt: skip
    model = tfgpt2.TFGPT2ForSequenceClassification(config)
    report = export_task(model, tokens, tmp_path / "1", weights="int8", check=False)
    assert report.weights == "int8" and stored_bytes(tmp_path / "1") < 40_000
    model.quantize()
    loaded = tf.saved_model.load(tmp_path / "1")
    found = loaded.classify(tf.constant(["abc"]))
    logits = model(**tokens(["abc"])).logits.numpy()
    values = [v.numpy() for v in found.values() if v.dtype == tf.float32]
    odds = np.exp(logits) / np.exp(logits).sum()
    assert any(np.allclose(np.sort(v.reshape(-1)), np.sort(odds[0]), atol=1e-4)
               for v in values if v.size == 3)  # fmt: skip


@pytest.mark.long
def test_the_bundled_model_compiled(tmp_path):
    """With XLA, in a clean process: tokens of the live quantized model, a quarter of the bytes."""
    generator = TextGenerator.from_pretrained("shakespeare-tiny")
    wide = expected_bytes(generator.model)
    prompts = ["To be, or not to be", "ROMEO:", "My lord, "]
    report = generator.export(tmp_path / "1", weights="int8", batch_sizes=[4],
                              signatures=["generate"], prompt_buckets=[32],
                              max_new_tokens=16)  # fmt: skip
    assert report.checked and has_compiled_functions(report.path)
    generator.model.quantize("int8")
    assert stored_bytes(report.path) <= 1.05 * expected_bytes(generator.model) + 20_000 < 0.3 * wide
    loaded = tf.saved_model.load(report.path)
    found = loaded.generate(tf.constant(prompts), temperature=tf.constant([0.0]),
                            max_new_tokens=tf.constant([16]))["token_ids"].numpy()  # fmt: skip
    tokens, gaps = generator.tokenizer, []
    for prompt, new in zip(prompts, found, strict=True):
        ids = np.concatenate([tokens.tokenize(prompt).numpy(), new])[None]  # [1, P + 16]
        logits = generator.model(ids).logits.numpy()[0, -17:-1]  # [16, V]
        gaps.append(logits.max(-1) - logits[np.arange(16), new])
    # The last bit of a float32 sum can move a rounded input by a whole step, so two tokens that
    # are as likely as each other (0.011 nats apart, seen once) may change places.
    assert np.max(gaps) < 0.03 and np.mean(np.array(gaps) == 0) > 0.9


def test_weights_too_large_for_the_type():
    model = toy_text.model(toy_text.tokenizer())
    model.weights[0].assign(model.weights[0] * 1e6)
    with pytest.raises(ValueError, match="too large for float16.*wte"):
        convert(model, "float16")
    copy, _ = convert(model, "bfloat16")
    rounded = tf.cast(model.weights[0].value, tf.bfloat16)
    np.testing.assert_array_equal(copy.weights[0], rounded)
    assert convert(model, "float32")[0] is model  # as it is


@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
def test_16_bit_weights_compute_in_float32(weights):
    """Compiled, the variables are small; plain, they are widened. The answers are the same."""
    model = toy_text.model(toy_text.tokenizer())
    light, kept = convert(model, weights)
    wide, _ = convert(model, weights, compiled=False)
    assert {weight.dtype for weight in light.weights} == {weights}
    assert {variable.dtype.name for variable in kept} == {weights}
    assert {weight.dtype for weight in wide.weights} == {"float32"}
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    logits = light(ids).logits
    assert logits.dtype == tf.float32
    np.testing.assert_array_equal(logits, wide(ids).logits)
    assert np.abs(logits - model(ids).logits).max() > 0  # they are rounded
    for rows in (1, 2, 4):  # one by one, and at once
        prompt, options = np.arange(3 * rows).reshape(rows, 3), {"max_new_tokens": 9}
        found = [m.generate(prompt, eos_token_id=None, **options) for m in (light, wide)]
        np.testing.assert_array_equal(*found)


@pytest.mark.long
@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
def test_the_bundled_model_compiled_in_16_bits(tmp_path, weights):
    """With XLA, in a clean process: the texts of the widened model, from half the bytes."""
    generator = TextGenerator.from_pretrained("shakespeare-tiny")
    prompts = ["To be, or not to be", "ROMEO:", "My lord, ", "Exeunt"]
    report = generator.export(tmp_path / "1", weights=weights, batch_sizes=[1, 4],
                              signatures=["generate"], prompt_buckets=[32],
                              max_new_tokens=24)  # fmt: skip
    assert report.checked and has_compiled_functions(report.path)
    half = expected_bytes(generator.model) // 2
    assert half <= stored_bytes(report.path) <= 1.05 * half + 20_000
    types = {value.dtype.name for value in _variables(report.path).values() if value.size > 1_000}
    assert types == {weights}
    loaded = tf.saved_model.load(report.path)
    for weight in generator.model.weights:
        weight.assign(tf.cast(tf.cast(weight.value, weights), tf.float32))
    for some in (prompts[:1], prompts):
        found = loaded.generate(tf.constant(some), temperature=tf.constant([0.0]),
                                max_new_tokens=tf.constant([24]))["text"].numpy()  # fmt: skip
        expected = generator.generate(some, temperature=0.0, max_new_tokens=24)
        assert [text.decode() for text in found] == expected
