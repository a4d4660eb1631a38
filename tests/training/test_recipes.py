"""Optimizer, schedules, averages, frozen parts: compared to PyTorch and to NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
from tfgpt2.training import callbacks, lora, recipes, schedules
from tfgpt2.training.checkpoint import Checkpoints
from tfgpt2.training.settings import SCHEDULES


def tiny(**options):
    keras.utils.set_random_seed(0)
    shape = dict(n_layer=2, n_embd=8, n_head=2, vocab_size=20, n_positions=8)
    off = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return TFGPT2LMHeadModel(GPT2Config(**shape | off | options))


def batches(count, rows, seed=0):
    ids = np.random.default_rng(seed).integers(0, 20, [count, rows, 8]).astype(np.int32)
    return [{"input_ids": x, "labels": x} for x in ids]


def train(model, data):
    for batch in data:
        model.train_on_batch(batch)
    return [keras.ops.convert_to_numpy(w) for w in model.weights]


class LinearModel:
    """A model of one matrix and one bias, for given gradients."""

    def __init__(self):
        start = np.linspace(-1, 1, 6).reshape(2, 3).astype(np.float32)
        self.weights = [keras.Variable(start, name="kernel"), keras.Variable([0.5], name="bias")]
        self.trainable_variables = self.weights


def gradients(steps):
    draw = np.random.default_rng(1).standard_normal
    return [(draw([2, 3]).astype(np.float32), draw([1]).astype(np.float32)) for _ in range(steps)]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_equal_those_of_transformers(kind):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    one = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([one], lr=0.3)
    name = "constant_with_warmup" if kind == "constant" else kind
    theirs = transformers.get_scheduler(name, optimizer, num_warmup_steps=7, num_training_steps=40)
    ours = schedules.schedule(kind, 0.3, 40, warmup=7)
    for step in range(41):
        np.testing.assert_allclose(float(ours(step)), theirs.get_last_lr()[0], atol=1e-7)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_can_be_serialized(kind):
    rate = schedules.schedule(kind, 0.3, 40, warmup=7, floor=0.1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
    steps = [0, 2, 6, 7, 20, 39, 500]
    assert [float(rate(s)) for s in steps] == [float(again(s)) for s in steps]
    assert float(rate(6)) == np.float32(0.3) * np.float32(6 / 7)
    if kind != "constant":
        np.testing.assert_allclose(float(rate(500)), 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{"kind": "cosin"}, {"peak": 0.0}, {"floor": 2.0}, {"warmup": 9}, {"steps": 0}]
)
def test_errors_of_schedules(options):
    values = {"kind": "cosine", "peak": 1.0, "steps": 9} | options
    with pytest.raises((ValueError, TypeError), match="Received"):
        schedules.schedule(values.pop("kind"), values.pop("peak"), values.pop("steps"), **values)


def test_the_optimizer_equals_pytorchs_adamw_with_clipping_and_decay_mask():
    torch = pytest.importorskip("torch")
    ours = LinearModel()
    optimizer = recipes.adamw(ours, 0.01, clip_norm=0.7)
    theirs = [torch.nn.Parameter(torch.tensor(keras.ops.convert_to_numpy(w))) for w in ours.weights]
    groups = [{"params": theirs[:1], "weight_decay": 0.1},
              {"params": theirs[1:], "weight_decay": 0.0}]  # fmt: skip
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    for grads in gradients(9):
        optimizer.apply([tf.constant(g) for g in grads], ours.weights)
        for parameter, grad in zip(theirs, grads, strict=True):
            parameter.grad = torch.tensor(grad)
        torch.nn.utils.clip_grad_norm_(theirs, 0.7)
        reference.step()
    for mine, other in zip(ours.weights, theirs, strict=True):
        np.testing.assert_allclose(mine, other.detach().numpy(), atol=2e-6)


def test_transformers_optimizer_without_weight_decay():
    weight = keras.Variable([[1.0]], name="kernel")
    optimizer, schedule = recipes.create_optimizer(0.1, num_train_steps=10, num_warmup_steps=0)
    optimizer = type(optimizer).from_config(optimizer.get_config())
    optimizer.apply([tf.zeros([1, 1])], [weight])
    assert float(weight.value[0, 0]) == 1.0
    np.testing.assert_allclose(float(schedule(5)), 0.05)


def test_decay_excludes_vectors_and_embeddings():
    model = tiny(tie_word_embeddings=False)
    excluded = {w.path.split("/", 1)[1] for w in model.weights if not recipes.decays(w)}
    assert {"transformer/wte/weight", "transformer/wpe/weight"} <= excluded
    assert all("bias" in p or "ln_" in p or p.split("/")[1] in ("wte", "wpe") for p in excluded)
    assert recipes.decays(model.lm_head.weight)
    before = [keras.ops.convert_to_numpy(w) for w in model.weights]
    optimizer = recipes.adamw(model, 0.1, weight_decay=0.5)
    optimizer.apply([tf.zeros(w.shape) for w in model.trainable_variables])
    for weight, old in zip(model.weights, before, strict=True):
        shrunk = old * (0.95 if recipes.decays(weight) else 1.0)
        np.testing.assert_allclose(weight, shrunk, rtol=1e-6)


STEPS, EVERY = 6, 4
RATES = {
    "warm-up and cosine": lambda: schedules.schedule("cosine", 0.03, STEPS, warmup=2),
    "Keras'": lambda: keras.optimizers.schedules.ExponentialDecay(0.03, 1, 0.5),
    "constant": lambda: 0.01,
}


def joined(data, every=EVERY):
    """Each `every` batches as one."""
    return [
        {k: np.concatenate([b[k] for b in data[i : i + every]]) for k in data[0]}
        for i in range(0, len(data), every)
    ]


@pytest.mark.long
@pytest.mark.parametrize("rate, overwrite", [
    ("warm-up and cosine", None),
    *(pytest.param(*one, marks=pytest.mark.long)
      for one in [("Keras'", None), ("constant", None), ("Keras'", 2)]),
])  # fmt: skip
def test_accumulated_batches_equal_one_large_batch(rate, overwrite):
    small, large = tiny(), tiny()
    data = batches(STEPS * EVERY, 2)
    for model, every in ((small, EVERY), (large, 1)):
        optimizer = recipes.adamw(model, RATES[rate](), accumulate=every, ema=0.7, clip_norm=0.1)
        optimizer.ema_overwrite_frequency = overwrite
        model.compile(optimizer, run_eagerly=True)
    first = train(small, data)
    for mine, other in zip(first, train(large, joined(data)), strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-5)
    for model in (small, large):
        assert int(model.optimizer.iterations) == recipes.steps_of(model) == STEPS
    np.testing.assert_allclose(
        float(small.optimizer.learning_rate), float(large.optimizer.learning_rate)
    )
    if overwrite:
        return  # the weights are the averages
    with recipes.averaged(small), recipes.averaged(large):
        for mine, other, raw in zip(small.weights, large.weights, first, strict=True):
            np.testing.assert_allclose(mine, other, atol=2e-5)
            assert np.abs(keras.ops.convert_to_numpy(mine) - raw).max() > 1e-4
    for mine, raw in zip(small.weights, first, strict=True):
        np.testing.assert_array_equal(mine, raw)


@pytest.mark.long
def test_a_schedule_resumes_where_it_was(tmp_path):
    data = batches(4 * EVERY, 2)

    def compiled():
        model = tiny()
        model.compile(recipes.adamw(model, RATES["warm-up and cosine"](), accumulate=EVERY))
        return model

    whole, cut = compiled(), compiled()
    train(whole, data)
    train(cut, data[: 2 * EVERY])
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(cut, 2)
    again = compiled()
    assert checkpoints.restore(again).step == recipes.steps_of(again) == 2
    train(again, data[2 * EVERY :])
    for mine, other in zip(again.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_accumulated_batches_weigh_the_same_whatever_their_number_of_labels():
    first, second = batches(2, 2)
    few = second | {"labels": np.where(np.arange(8) < 3, second["labels"], -100)}

    def gradient(*data):
        model = tiny()
        with tf.GradientTape() as tape:
            loss = tf.add_n([model(batch).loss for batch in data]) / len(data)
        return tape.gradient(loss, model.transformer.h[0].mlp.c_fc.weight.value)

    model = tiny()
    sgd = keras.optimizers.SGD(1.0, gradient_accumulation_steps=2)
    model.compile(sgd, run_eagerly=True)
    before = keras.ops.convert_to_numpy(model.transformer.h[0].mlp.c_fc.weight)
    train(model, [first, few])
    step = before - keras.ops.convert_to_numpy(model.transformer.h[0].mlp.c_fc.weight)
    np.testing.assert_allclose(step, gradient(first, few), atol=1e-6)
    large = gradient(*joined([first, few], 2))
    assert np.abs(step - large).max() > 0.02 * np.abs(large).max()


@pytest.mark.long
def test_callbacks_count_steps_after_an_incomplete_one():
    model = tiny()
    model.compile(recipes.adamw(model, 0.01, accumulate=2))
    seen = []

    class Steps(callbacks.StepCallback):
        def at_step(self, step, batches, logs):
            seen.append((step, recipes.steps_of(self.model)))

    for count in (3, 4):
        data = tf.data.Dataset.from_generator(
            lambda count=count: iter(batches(count, 2)),
            output_signature={k: tf.TensorSpec([2, 8], tf.int32) for k in ("input_ids", "labels")},
        )
        model.fit(data, verbose=0, callbacks=[Steps()])
    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_averages_follow_the_formula():
    model = LinearModel()
    optimizer = recipes.adamw(model, 0.1, ema=0.8)
    expected = None
    for grads in gradients(5):
        optimizer.apply([tf.constant(g) for g in grads], model.weights)
        value = keras.ops.convert_to_numpy(model.weights[0]).astype(np.float64)
        expected = value if expected is None else 0.8 * expected + 0.2 * value
    average = keras.ops.convert_to_numpy(optimizer._model_variables_moving_average[0])
    np.testing.assert_allclose(average, expected, rtol=1e-5)
    optimizer.keep_weights = True
    optimizer.finalize_variable_values(model.weights)
    assert np.abs(keras.ops.convert_to_numpy(model.weights[0]) - average).max() > 1e-3
    optimizer.keep_weights = False
    optimizer.finalize_variable_values(model.weights)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.weights[0]), average)


@pytest.mark.long
def test_frozen_weights_do_not_change():
    model = tiny()
    paths = recipes.freeze(model, "wte", "wpe", "h.0", "h.1.attn", "transformer.ln_f")
    assert len(paths) == 2 + 12 + 4 + 2
    model.compile(recipes.adamw(model, 0.01))
    before = {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}
    train(model, batches(2, 2))
    for weight in model.weights:
        same = np.array_equal(before[weight.path], keras.ops.convert_to_numpy(weight))
        assert same == (weight.path in paths), weight.path

    model = tiny()
    lora.enable_lora(model, rank=2)
    before = {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}
    model.compile(recipes.adamw(model, 0.1))
    assert len(model.optimizer._momentums) == 4
    train(model, batches(3, 2))
    for weight in model.weights:
        same = np.array_equal(before[weight.path], keras.ops.convert_to_numpy(weight))
        assert same == ("lora_kernel" not in weight.path), weight.path


def test_several_blocks_and_unknown_parts():
    assert len(recipes.freeze(tiny(), "h.0-1")) == 24 == len(recipes.freeze(tiny(), "h"))
    for wrong in ("wtee", "h.2", "h.1-0", "h.0.attention", "transformer.", "h.0-9", "config"):
        with pytest.raises(ValueError, match="no part"):
            recipes.freeze(tiny(), wrong)


@pytest.mark.parametrize(
    "options",
    [{"weight_decay": -1.0}, {"beta_2": 1.0}, {"clip_norm": 0.0}, {"ema": 1.0}, {"accumulate": 0}],
)
def test_errors_of_the_optimizer(options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        recipes.adamw(tiny(), 0.1, **options)


def test_precision():
    assert recipes.precision("auto") in ("float32", "mixed_bfloat16")
    assert recipes.precision("mixed_bfloat16") == "mixed_bfloat16"
    with pytest.raises(ValueError, match="mixed_bfloat16"):
        recipes.precision("mixed_bfloat")
