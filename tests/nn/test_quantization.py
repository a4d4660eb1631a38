"""int8 models: the arithmetic against numpy, the model against a slow twin, files, errors."""

import json
import shutil
import weakref
from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

import tfgpt2
from tfgpt2.nn import int8, layers, quantization
from tfgpt2.nn.one_row import any_number_alike
from tfgpt2.training import lora

SHAPE = {"vocab_size": 97, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
CASES = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "cross": {"add_cross_attention": True},
    "pruned": {"pruned_heads": {0: [1], 1: [0, 3]}},
}
IDS = np.random.default_rng(0).integers(0, 97, (2, 9))


def make_model(kind="TFGPT2LMHeadModel", dtype=None, **changes):
    model = getattr(tfgpt2, kind)(tfgpt2.GPT2Config(**(SHAPE | changes)), dtype=dtype)
    random = np.random.default_rng(1)
    for weight in model.weights:
        centre = 1.0 if "ln_" in weight.path and weight.path.endswith("weight") else 0.0
        # Outputs of different sizes, so that one scale for all of them would not suffice.
        scale = np.exp(random.normal(0, 0.5, weight.shape[-1:])) * 0.2
        weight.assign(centre + scale * random.standard_normal(weight.shape))
    return model


def quantized(*args, **changes):
    model = make_model(*args, **changes)
    model.quantize("int8")
    return model


def numpy_quantize_rows(x):
    """The slow twin of `int8.quantize_rows`: numpy, row by row."""
    numbers, steps = np.zeros(x.shape), np.zeros(len(x), np.float32)
    for i, row in enumerate(np.asarray(x, np.float32)):
        steps[i] = np.float32(max(np.abs(row).max(initial=0), np.float32(1e-30))) / np.float32(127)
        numbers[i] = np.round(row / steps[i])
    return numbers.astype(np.int64), steps


ROWS = np.random.default_rng(2).normal(0, 3, (6, 50)).astype(np.float32)
ROWS[1], ROWS[2], ROWS[3], ROWS[4, 7] = 0, ROWS[2] * 1e-37, ROWS[3] * 1e30, -1e4


# The arithmetic ---------------------------------------------------------------------------------


def test_rows_are_quantised_like_in_numpy():
    numbers, steps = int8.quantize_rows(tf.constant(ROWS))
    expected, expected_steps = numpy_quantize_rows(ROWS)
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_allclose(steps[:, 0], expected_steps, rtol=1e-6)
    assert np.abs(numbers).max() == 127 and not np.any(numbers[1])
    error = np.abs(numbers * steps - ROWS)
    assert np.all(error[[0, 1, 3, 4, 5]] <= 0.501 * steps.numpy()[[0, 1, 3, 4, 5]])


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_the_product_is_exact_on_integers_and_close_to_the_float_one(rows):
    random = np.random.default_rng(rows)
    x = random.normal(0, 2, (rows, 300)).astype(np.float32)
    kernel = random.normal(0, 1, (40, 300)).astype(np.float32)
    (a, a_steps), (w, w_steps) = numpy_quantize_rows(x), numpy_quantize_rows(kernel)
    exact = (a @ w.T) * a_steps[:, None].astype(np.float64) * w_steps
    alone = (x.astype(np.float64) @ w.T) * w_steps  # one row is multiplied as it is
    # What both roundings can move a sum by, half a step for each number.
    real = x.astype(np.float64) @ kernel.T
    bound = 0.5 * (np.abs(x).sum(1)[:, None] * w_steps + a_steps[:, None] * np.abs(kernel).sum(1))
    bound += 0.25 * 300 * a_steps[:, None] * w_steps
    matrix, steps = tf.constant(w, tf.int8), tf.constant(w_steps)
    for shape in ([rows, 300], [None, 300]):
        for jit in (False, True):
            for expected, context in ((alone if rows == 1 else exact, nullcontext),
                                      (exact, any_number_alike)):  # fmt: skip
                program = tf.function(
                    lambda x: int8.int8_matmul(x, matrix, steps),
                    [tf.TensorSpec(shape)],
                    jit_compile=jit,
                )
                with context():
                    found = program(tf.constant(x)).numpy()
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
                assert np.all(np.abs(found - real) <= bound * 1.001)
    found = int8.int8_matmul(x, matrix, steps)
    np.testing.assert_allclose(found, alone if rows == 1 else exact, rtol=1e-5, atol=1e-4)


def test_long_sums_of_the_largest_numbers():
    """Where float32 would round: 4096 products of 127 * 127 are above 2^24."""
    x, matrix = tf.ones([2, 4096]), tf.fill([3, 4096], tf.constant(127, tf.int8))
    for jit in (False, True):
        program = tf.function(lambda: int8.int8_matmul(x, matrix, tf.ones([3])), jit_compile=jit)
        np.testing.assert_allclose(program(), np.full((2, 3), 4096 * 127), rtol=1e-6)


def test_compiled_programs_multiply_integers():
    model = quantized()
    program = tf.function(lambda ids: model(ids).logits, jit_compile=True)
    graph = program.experimental_get_compiler_ir(tf.constant(IDS[:, :3]))(stage="hlo")
    products = [line for line in graph.splitlines() if " dot(" in line]
    integer = [line for line in products if "= s32[" in line]
    assert len(integer) == 4 * 2 + 1  # four maps in each block, and the output matrix
    assert len(products) == len(integer) + 2 * 2  # attention
    assert not [line for line in graph.splitlines() if "f32[97,32]" in line]  # no table in float


# The model --------------------------------------------------------------------------------------


def dequantised_logits(case, monkeypatch, **inputs):
    """A quantised model, and the logits of a float twin whose products are quantised in numpy."""
    model, source = make_model(**CASES[case]), quantized(**CASES[case])
    for layer, small in zip(
        quantization.int8_layers(model), quantization.int8_layers(source), strict=True
    ):
        wide = small.weight_int8.numpy() * small.weight_scale.numpy()[:, None]
        layer.weight.assign(wide if isinstance(layer, layers.Embedding) else wide.T)

    def times(x, matrix):
        numbers, steps = numpy_quantize_rows(x.numpy())
        return tf.constant((numbers * steps[:, None].astype(np.float64)) @ matrix, tf.float32)

    def score(self, x):
        flat = times(tf.reshape(x, [-1, self.width]), self.weight.numpy().T)
        return tf.reshape(flat, [*x.shape[:-1], self.count])

    with monkeypatch.context() as patch:
        patch.setattr(layers.Conv1D, "project",
                      lambda self, x: times(x, self.weight.numpy()) + self.bias)  # fmt: skip
        patch.setattr(layers.Embedding, "score", score)
        return source, model(IDS, **inputs).logits.numpy()


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_slow_twin_and_close_to_the_float_models(case, monkeypatch):
    states = np.random.default_rng(3).normal(size=(2, 4, 32)).astype(np.float32)
    inputs = {"encoder_hidden_states": states} if case == "cross" else {}
    model, expected = dequantised_logits(case, monkeypatch, **inputs)
    found = model(IDS, **inputs).logits.numpy()
    # A number on the edge between two steps may round the other way.
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.std())
    assert np.median(np.abs(found - expected)) < 1e-4
    real = make_model(**CASES[case])(IDS, **inputs).logits.numpy()
    assert 0 < np.abs(found - real).max() < 0.25 * real.std()
    assert np.mean(found.argmax(-1) == real.argmax(-1)) > 0.85


# The exports' tests decode in a graph without XLA, too.
@pytest.mark.long
@pytest.mark.parametrize("jit", [True, False])
def test_greedy_tokens_are_those_of_eager_calls_without_a_cache(jit):
    ends = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": 0}
    model = make_model(tie_word_embeddings=False, n_layer=1, **ends)
    positions = model.transformer.wpe.weight
    positions.assign(positions * 6.0)  # so that the tokens differ
    model.quantize("int8")
    mask = np.ones_like(IDS)
    mask[1, :4] = 0
    found = model.generate(
        IDS, attention_mask=mask, max_new_tokens=10, do_sample=False, jit_compile=jit
    ).numpy()
    for row, start in enumerate((0, 4)):
        tokens = IDS[row : row + 1, start:]
        for _ in range(10):
            following = model(tokens).logits.numpy()[:, -1].argmax(-1)
            tokens = np.concatenate([tokens, following[:, None]], 1)
        np.testing.assert_array_equal(found[row, start:], tokens[0])
        assert len(set(tokens[0, -10:])) > 3


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float16"])
def test_other_policies_keep_their_types(policy):
    model = quantized(dtype=policy)
    hidden = model.transformer.h[0].mlp.c_fc(tf.ones([1, 32], model.compute_dtype))
    assert hidden.dtype == model.compute_dtype and model.transformer.wte(IDS).dtype == hidden.dtype
    scales = [weight for weight in model.weights if weight.name == "weight_scale"]
    assert {weight.dtype for weight in scales} == {"float32"}
    real = make_model()(IDS).logits.numpy()
    np.testing.assert_allclose(model(IDS).logits, real, atol=0.3 * real.std())


def test_the_model_shrinks_and_drops_its_float_weights():
    model = make_model(n_embd=64)
    before = sum(weight.value.numpy().nbytes for weight in model.weights)
    held = model.transformer.h[1].mlp.c_fc.weight
    model.quantize()
    assert model.is_quantized and model.transformer.h[1].mlp.c_fc.weight is None
    assert not [weight for weight in model.weights if weight is held]
    after = sum(weight.value.numpy().nbytes for weight in model.weights)
    assert after < 0.33 * before  # positions, norms and biases weigh a lot in a tiny model
    assert model.transformer.wpe.weight.dtype == "float32"


def test_float_weights_are_freed_and_in_no_checkpoint(tmp_path, monkeypatch):
    """TensorFlow's list of what a checkpoint holds kept each of them, and its memory."""
    model, twin = make_model(), quantized()
    references = [weakref.ref(layer.weight) for layer in quantization.int8_layers(model)]
    monkeypatch.setattr(int8, "_ROWS", 7)  # a few rows at a time are the same numbers
    model.quantize("int8")
    assert [reference() for reference in references] == [None] * len(references)
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    numbers = sum(np.prod(shape) for _, shape in tf.train.list_variables(path) if shape)
    assert numbers == sum(np.prod(weight.shape) for weight in twin.weights)
    for weight, expected in zip(model.weights, twin.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())


def test_task_heads_stay_float():
    model = quantized("TFGPT2ForSequenceClassification", pad_token_id=0, num_labels=3)
    real = make_model("TFGPT2ForSequenceClassification", pad_token_id=0, num_labels=3)(IDS).logits
    np.testing.assert_allclose(model(IDS).logits, real, atol=0.25 * np.std(real))
    assert [weight.dtype for weight in model.weights if "score" in weight.path] == ["float32"]


# Files ------------------------------------------------------------------------------------------


def have_same_weights(model, other):
    """Whether all weights have the same names, types and bits."""
    mine = {weight.path.split("/", 1)[1]: weight for weight in model.weights}
    theirs = {weight.path.split("/", 1)[1]: weight for weight in other.weights}
    return list(mine) == list(theirs) and all(
        mine[key].dtype == theirs[key].dtype
        and np.array_equal(mine[key].numpy(), theirs[key].numpy())
        for key in mine
    )


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_comes_back_bit_by_bit(case, tmp_path):
    model = quantized(**CASES[case])
    model.save_pretrained(tmp_path, max_shard_size=20_000 if case == "untied" else 10**9)
    again = tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path)
    assert have_same_weights(model, again) and again.is_quantized and not again.trainable_weights
    assert len(list(tmp_path.glob("*.safetensors"))) == (1 if case != "untied" else 3)
    again.save_pretrained(tmp_path / "second")
    third = tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path / "second", quantize="int8")
    assert have_same_weights(model, third)


def test_the_file_as_documented(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "float")
    model.quantize("int8")
    model.save_pretrained(tmp_path / "small")
    wide, small = (load_file(tmp_path / n / "model.safetensors") for n in ("float", "small"))
    kernels = [k for k in wide if k.endswith((".wte.weight", "attn.weight", "proj.weight",
                                              "fc.weight"))]  # fmt: skip
    assert len(kernels) == 4 * 2 + 1
    for key in kernels:
        numbers, steps = small.pop(f"{key}_int8"), small.pop(key.replace("weight", "weight_scale"))
        matrix = wide.pop(key) if "wte" in key else wide.pop(key).T
        expected, expected_steps = numpy_quantize_rows(matrix)
        assert numbers.dtype == np.int8 and steps.dtype == np.float32
        assert np.abs(numbers - expected).max() <= 1 and np.mean(numbers != expected) < 1e-3
        np.testing.assert_allclose(steps, expected_steps, rtol=1e-6)
    assert small.keys() == wide.keys()
    assert all(np.array_equal(small[key], wide[key]) for key in small)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["quantization_config"] == quantization.SETTINGS


def test_quantising_while_loading(tmp_path):
    make_model().save_pretrained(tmp_path)
    model = tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path, quantize="int8")
    assert have_same_weights(model, quantized())
    with pytest.raises(ValueError, match=r"(?s)'int8'.*mode='int4'.*Did you mean 'int8'"):
        tfgpt2.TFGPT2LMHeadModel.from_pretrained("no/such", quantize="int4")


def test_keras_files(tmp_path):
    model = quantized()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert have_same_weights(model, again)
    np.testing.assert_array_equal(again(IDS).logits, model(IDS).logits)


def test_files_that_do_not_fit(tmp_path):
    quantized().save_pretrained(tmp_path / "a")
    config, weights = tmp_path / "a" / "config.json", tmp_path / "a" / "model.safetensors"
    text, tensors = config.read_text(), load_file(weights)
    key = "transformer.h.0.attn.c_attn.weight_int8"
    save_file(tensors | {key: tensors[key].astype(np.float32)}, weights)
    with pytest.raises(ValueError, match=f"{key} holds float32 in the file, not int8"):
        tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path / "a")
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"missing \(9\).*unexpected \(18\)"):  # as a float model
        tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path / "a", config=tfgpt2.GPT2Config(**SHAPE))
    config.write_text(text.replace("tfgpt2_int8", "gptq"))
    with pytest.raises(ValueError, match="(?s)does not read.*gptq.*quantize"):
        tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path / "a")


def test_a_float_model_is_not_touched_by_a_copy():
    model = make_model()
    copy = quantization.quantized_copy(model)
    assert (
        not model.is_quantized and model.trainable_weights and have_same_weights(copy, quantized())
    )
    assert have_same_weights(quantization.quantized_copy(copy), copy)


# Errors ----------------------------------------------------------------------------------------


def test_training_raises():
    model = quantized()
    data = {"input_ids": IDS, "labels": IDS}
    model.compile("adam")
    for train in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match="Training needs a float model"):
            train(data)
    assert model.evaluate(data, verbose=0) == pytest.approx(float(model(**data).loss), rel=1e-4)
    with pytest.raises(LookupError, match="Rounding to int8 has no gradient"):
        with tf.GradientTape() as tape:
            bias = model.transformer.h[0].mlp.c_fc.bias.value
            tape.watch(bias)
            loss = model(**data).loss
        tape.gradient(loss, bias)
    with pytest.raises(ValueError, match="`chunked_loss` needs a float model"):
        model.compile("adam", chunked_loss=True)


def test_quantising_resets_the_chunked_loss():
    model = make_model()
    model.compile("adam", chunked_loss=True)
    model.quantize()
    assert not model.compiled and model(IDS, labels=IDS).logits is not None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: m.quantize("int8"), "A second quantisation"),
        (lambda m: lora.enable_lora(m, 2), "An adapter"),
        (lambda m: m.resize_token_embeddings(99), "resize_token_embeddings"),
        (lambda m: m.set_input_embeddings(np.zeros((97, 32))), "set_input_embeddings"),
        (lambda m: m.prune_heads({0: [1]}), "prune_heads"),
        (lambda m: m.save_pretrained("never", dtype="float16"), "Saving in another `dtype`"),
    ],
)
def test_operations_that_need_a_float_model(change, what):
    model = quantized()
    with pytest.raises(ValueError, match=f"(?s){what} needs a float model.*quantise the result"):
        change(model)
    assert model.adapters is None and have_same_weights(model, quantized())


def test_models_that_cannot_be_quantised():
    model = make_model()
    lora.enable_lora(model, 2)
    with pytest.raises(ValueError, match="(?s)adapters cannot be quantised.*merge_adapter"):
        model.quantize()
    broken = make_model()
    broken.transformer.h[1].mlp.c_proj.weight.assign(np.full((128, 32), np.nan))
    with pytest.raises(ValueError, match="(?s)finite numbers.*h_1/mlp/c_proj/weight"):
        broken.quantize()
    assert not broken.is_quantized and not broken.transformer.h[0].mlp.c_fc.is_int8
    with pytest.raises(ValueError, match="quantised to 'int8'"):
        make_model().quantize("gptq")


def test_a_conversion_raises(tmp_path):
    quantized().save_pretrained(tmp_path / "small")
    from tfgpt2.conversion.convert import convert

    with pytest.raises(ValueError, match="A conversion needs a float model"):
        convert(tmp_path / "small", tmp_path / "h5", to="h5", progress=False)
    shutil.rmtree(tmp_path / "small")
    assert not list(tmp_path.iterdir())
