"""The chunked cross-entropy compared to the plain one: values and gradients, in every mode."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support.paths import ROOT
from tfgpt2 import GPT2Config
from tfgpt2.nn.chunked_loss import chunked_causal_lm_loss, tokens_per_chunk
from tfgpt2.nn.losses import LossSettings, causal_lm_loss

B, T, D, V = 3, 11, 16, 37
RANDOM = np.random.default_rng(0)
HIDDEN = RANDOM.normal(size=(B, T, D)).astype("float32")
TABLE = RANDOM.normal(size=(V, D)).astype("float32")
LABELS = RANDOM.integers(0, V, (B, T))
LABELS[0, 4:6] = LABELS[2, :9] = -100
SHAPE = {"vocab_size": V, "n_positions": 32, "n_embd": D, "n_layer": 2, "n_head": 2}
NO_DROPOUT = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}


def value_and_gradients(loss, dtype="float32"):
    hidden, table = tf.cast(HIDDEN, dtype), tf.constant(TABLE)
    with tf.GradientTape() as tape:
        tape.watch([hidden, table])
        value = 3.0 * loss(hidden, table)  # not 1, to test the upstream gradient
    return value, *tape.gradient(value, [hidden, table])


def plain(settings):
    def loss(hidden, table):
        scores = tf.matmul(tf.reshape(hidden, [-1, D]), tf.cast(table, hidden.dtype),
                           transpose_b=True)  # fmt: skip
        return causal_lm_loss(tf.reshape(scores, [B, T, V]), tf.constant(LABELS), settings)

    return loss


def chunked(settings, training):
    return lambda hidden, table: chunked_causal_lm_loss(
        hidden, table, tf.constant(LABELS), settings, training=training
    )


def assert_close(found, expected, rtol):
    for one, other in zip(found, expected, strict=True):
        one, other = (tf.cast(x, tf.float32).numpy() for x in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * np.abs(other).max())


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"chunk": 11},
        {"chunk": 5, "label_smoothing": 0.2, "z_loss": 1e-2},
    ],
)
def test_value_and_gradients_are_those_of_the_plain_loss(options, training, mode):
    settings = LossSettings(chunked=True, **options)
    expected = value_and_gradients(plain(settings))
    run = lambda: value_and_gradients(chunked(settings, training))  # noqa: E731
    found = run() if mode == "eager" else tf.function(run, jit_compile=mode == "xla")()
    assert_close(found[:1], expected[:1], 1e-6)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype, rtol", [("bfloat16", 2e-2), ("float16", 3e-3)])
def test_low_precision_is_as_near_the_exact_loss_as_the_plain_one(dtype, rtol, training):
    settings = LossSettings(chunked=True, chunk=8)
    exact = value_and_gradients(plain(settings))
    found = value_and_gradients(chunked(settings, training), dtype)
    assert [x.dtype for x in found] == [tf.float32, tf.as_dtype(dtype), tf.float32]
    assert_close(found, exact, rtol)


@pytest.mark.long
def test_sums_over_chunks_are_float32():
    """1024 equal tokens: a bfloat16 sum would stop growing at 256 times the value of one."""
    hidden = tf.ones([1, 1025, 2], tf.bfloat16)
    table = tf.constant([[1.0, 0.0], [0.0, 0.0]])
    settings = LossSettings(chunked=True, chunk=2)
    with tf.GradientTape() as tape:
        tape.watch(table)
        loss = chunked_causal_lm_loss(
            hidden, table, tf.zeros([1, 1025], tf.int32), settings, training=True
        )
    np.testing.assert_allclose(loss, np.log(1 + np.exp(-1)), rtol=2e-3)
    np.testing.assert_allclose(
        tape.gradient(loss, table)[0], [1 / (1 + np.exp(-1)) - 1] * 2, rtol=4e-3
    )


def test_nothing_scored_gives_zero():
    labels = tf.fill([B, T], -100)
    with tf.GradientTape() as tape:
        table = tf.constant(TABLE)
        tape.watch(table)
        loss = chunked_causal_lm_loss(HIDDEN, table, labels, LossSettings(), training=True)
    assert float(loss) == 0 and not np.any(tape.gradient(loss, table))


def test_unknown_sizes_in_a_graph():
    settings = LossSettings(chunked=True, chunk=4)
    spec = [tf.TensorSpec([None, None, D]), tf.TensorSpec([None, None], tf.int64)]
    run = tf.function(
        lambda hidden, labels: chunked_causal_lm_loss(hidden, TABLE, labels, settings),
        input_signature=spec,
    )
    for rows, length in ((1, 2), (2, 11), (3, 5), (0, 4)):
        scores = HIDDEN[:rows, :length] @ TABLE.T
        labels = LABELS[:rows, :length]
        np.testing.assert_allclose(
            run(HIDDEN[:rows, :length], labels), causal_lm_loss(scores, labels), rtol=1e-6
        )


@pytest.mark.parametrize("training", [False, True])
def test_no_tensor_of_all_logits_is_made(training):
    settings = LossSettings(chunked=True, chunk=8, label_smoothing=0.1)
    rows, length, words = 4, 64, 1009
    spec = [tf.TensorSpec([rows, length, D]), tf.TensorSpec([words, D])]

    @tf.function(input_signature=spec)
    def gradients(hidden, table):
        with tf.GradientTape() as tape:
            tape.watch([hidden, table])
            labels = tf.zeros([rows, length], tf.int32)
            loss = chunked_causal_lm_loss(hidden, table, labels, settings, training=training)
        return tape.gradient(loss, [hidden, table])

    graph = gradients.get_concrete_function().graph
    functions = [graph, *(f.graph for f in graph._functions.values() if hasattr(f, "graph"))]
    sizes = [t.shape.num_elements() or 0 for g in functions for op in g.get_operations()
             for t in op.outputs if words in list(t.shape if t.shape.rank else [])]  # fmt: skip
    assert 8 * words in sizes  # the logits of a chunk
    assert max(sizes) == D * words  # nothing is larger than the output matrix


def test_an_invalid_label_is_an_error():
    for wrong in (-1, V):
        with pytest.raises(tf.errors.InvalidArgumentError):
            chunked_causal_lm_loss(HIDDEN, TABLE, tf.fill([B, T], wrong), LossSettings())


def test_chunks_are_chosen_by_the_vocabulary():
    assert [tokens_per_chunk(v) for v in (2, 1024, 50257, 10**7)] == [8192, 8192, 256, 64]


def make(cls=tfgpt2.TFGPT2LMHeadModel, dtype=None, **fields):
    keras.utils.set_random_seed(1)
    model = cls(GPT2Config(**SHAPE, **(NO_DROPOUT | fields)), dtype=dtype)
    for weight in model.weights:
        if len(weight.shape) == 2:
            weight.assign(np.random.default_rng(2).normal(0, 0.2, weight.shape))
    return model


IDS = np.random.default_rng(3).integers(0, V, (4, 12))
DATA = {"input_ids": IDS, "labels": np.where(IDS < 5, -100, IDS)}


def fitted(model, **options):
    model.compile(keras.optimizers.SGD(0.5), **options)
    losses = model.fit(DATA, batch_size=2, epochs=3, shuffle=False, verbose=0).history["loss"]
    return losses, [weight.numpy() for weight in model.weights]


@pytest.mark.long
@pytest.mark.parametrize(
    "fields, jit",
    [
        ({}, False),
        pytest.param({}, True, marks=pytest.mark.long),
        pytest.param({"tie_word_embeddings": False}, False, marks=pytest.mark.long),
    ],
)
def test_fit_gives_the_same_weights(fields, jit):
    expected = fitted(make(**fields), jit_compile=jit, label_smoothing=0.1, z_loss=1e-3)
    model = make(**fields, attn_implementation="blockwise")
    model.gradient_checkpointing_enable()
    found = fitted(model, jit_compile=jit, chunked_loss=8, label_smoothing=0.1, z_loss=1e-3)
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-5)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    unsmoothed = fitted(make(**fields), jit_compile=jit)
    assert abs(unsmoothed[0][0] - expected[0][0]) > 1e-3  # the options have an effect


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_fit_in_mixed_precision(dtype):
    expected, found = fitted(make(dtype=dtype)), fitted(make(dtype=dtype), chunked_loss=8)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-2)


REPLICAS = """
import keras, numpy as np, tensorflow as tf, tfgpt2
from tests.training import test_chunked_loss as t
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
data = {"input_ids": t.IDS, "labels": t.IDS}  # all replicas score the same number of tokens
t.DATA.update(data)
expected = t.fitted(t.make(), chunked_loss=8)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    found = t.fitted(t.make(), chunked_loss=8)
np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
for one, other in zip(found[1], expected[1]):
    np.testing.assert_allclose(one, other, atol=2e-5)

from tfgpt2.training import data
corpus = data.Corpus(np.arange(400, dtype=np.uint16) % t.V, np.array([0, 33, 150, 400]))

def trained():
    model = t.make()
    model.compile(keras.optimizers.SGD(0.5))
    blocks = data.lm_dataset(corpus, None, 10, 4, epochs=None)
    losses = model.fit(blocks, steps_per_epoch=5, epochs=2, verbose=0).history["loss"]
    return losses, [weight.numpy() for weight in model.weights]

expected = trained()
with strategy.scope():
    found = trained()
np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
for one, other in zip(found[1], expected[1]):
    np.testing.assert_allclose(one, other, atol=2e-5)
with strategy.scope():
    config = tfgpt2.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=t.V, resid_pdrop=0.5)
    model = tfgpt2.TFGPT2LMHeadModel(config)
ids = np.ones((1, 6), np.int32)
for training in (True, False):
    out = strategy.run(lambda: model(ids, training=training).logits)
    one, other = (x.numpy() for x in strategy.experimental_local_results(out))
    assert np.any(one != other) == training, "dropout of two replicas"
print("equal")
"""


@pytest.mark.long
def test_two_replicas_train_like_one():
    """On arrays and on blocks; in a new process, since it divides the CPU into devices."""
    result = subprocess.run(
        [sys.executable, "-c", REPLICAS], capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"},
    )  # fmt: skip
    assert result.stdout.strip().endswith("equal"), result.stderr[-3000:]


def test_evaluate_measures_without_smoothing_and_predict_returns_logits():
    model = make()
    expected = float(model(IDS, labels=DATA["labels"]).loss)
    model.compile("sgd", chunked_loss=True, label_smoothing=0.3, z_loss=0.1)
    np.testing.assert_allclose(model.evaluate(DATA, verbose=0), expected, rtol=1e-5)
    assert model.predict(DATA, verbose=0)["logits"].shape == (4, 12, V)
    out = model(IDS, labels=DATA["labels"])
    assert out.logits is None and list(out)[0] == "loss"
    assert model(IDS).logits.shape == (4, 12, V)


def test_double_heads():
    data = {"input_ids": IDS[:, None], "labels": DATA["labels"][:, None], "mc_labels": [0] * 4}
    models = [make(tfgpt2.TFGPT2DoubleHeadsModel) for _ in range(2)]
    models[1].compile("sgd", chunked_loss=8)
    one, other = (model(**data) for model in models)
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-6)
    np.testing.assert_allclose(one.mc_loss, other.mc_loss, rtol=1e-6)
    assert one.logits.shape == (4, 1, 12, V) and other.logits is None


@pytest.mark.long
def test_a_keras_file_remembers_the_settings(tmp_path):
    model = make()
    model.compile("sgd", chunked_loss=8, label_smoothing=0.1)
    model.fit(DATA, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.loss_settings == LossSettings(chunked=True, chunk=8, label_smoothing=0.1)


@pytest.mark.parametrize(
    "options",
    [{"chunked_loss": 0}, {"chunked_loss": -3}, {"label_smoothing": 1.0}, {"z_loss": -1.0}],
)
def test_wrong_settings_are_named(options):
    with pytest.raises(ValueError, match=r"must be .* Received: .*switch it off"):
        make().compile("sgd", **options)


def test_settings_need_the_models_own_loss():
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match="options of a language model's own loss"):
        make().compile("sgd", keras_loss, chunked_loss=True)
    with pytest.raises(ValueError, match="options of a language model's own loss"):
        make(tfgpt2.TFGPT2ForSequenceClassification).compile("sgd", label_smoothing=0.1)


def test_training_on_a_cpu_runs_outside_xla_unless_asked():
    model = make()
    model.compile("sgd")
    assert model.jit_compile is bool(tf.config.list_logical_devices("GPU"))
    model.compile("sgd", jit_compile=True)
    assert model.jit_compile is True
