"""Ids and labels out of range show where XLA, which cannot raise, would read the nearest ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgpt2 import (
    GPT2Config,
    TFGPT2DoubleHeadsModel,
    TFGPT2ForSequenceClassification,
    TFGPT2ForTokenClassification,
    TFGPT2LMHeadModel,
)
from tfgpt2.models import base, batch_checks
from tfgpt2.nn.chunked_loss import chunked_causal_lm_loss
from tfgpt2.nn.losses import LossSettings, causal_lm_loss, classification_loss
from tfgpt2.training import data
from tfgpt2.training.callbacks import StopOnNaN

V, T = 20, 6
IDS = np.arange(12, dtype=np.int32).reshape(2, T) % 5


def make(kind=TFGPT2LMHeadModel, **fields):
    keras.utils.set_random_seed(0)
    shape = dict(n_layer=1, n_embd=8, n_head=2, vocab_size=V, n_positions=8, num_labels=3)
    return kind(GPT2Config(**shape | {"resid_pdrop": 0.0, "embd_pdrop": 0.0} | fields))


def with_value(value, where=(0, 3), like=IDS):
    changed = like.copy()
    changed[where] = value
    return changed


def rows_of_nan(logits):
    return np.isnan(logits).reshape(len(logits), -1).any(axis=1).tolist()


@pytest.mark.parametrize("int8", [False, pytest.param(True, marks=pytest.mark.long)])
def test_compiled_calls_give_nan_for_the_row(int8):
    model = make()
    if int8:
        model.quantize("int8")

    @tf.function(jit_compile=True)
    def call(ids, types, positions):
        return model(ids, token_type_ids=types, position_ids=positions, use_cache=False).logits

    columns = np.tile(np.arange(T, dtype=np.int32), (2, 1))
    good = [IDS, IDS, columns]
    expected = model(IDS, token_type_ids=IDS).logits
    np.testing.assert_allclose(call(*good), expected, atol=0.05 if int8 else 1e-5)
    for number, limit in enumerate((V, V, 8)):
        for wrong in (limit, -1):
            changed = list(good)
            changed[number] = with_value(wrong, like=good[number])
            logits = call(*changed).numpy()
            assert rows_of_nan(logits) == [True, False]
            np.testing.assert_allclose(logits[1], expected[1], atol=0.05 if int8 else 1e-5)


def test_a_choice_at_a_column_that_is_not_there():
    model = make(TFGPT2DoubleHeadsModel)

    @tf.function(jit_compile=True)
    def call(column):
        return model(IDS[:, None], mc_token_ids=column).mc_logits

    assert rows_of_nan(call(tf.constant([[5], [0]])).numpy()) == [False, False]
    assert rows_of_nan(call(tf.constant([[6], [0]])).numpy()) == [True, False]


def chunked(logits, labels, settings):
    return chunked_causal_lm_loss(logits, tf.eye(V), labels, settings, training=True)


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, labels: causal_lm_loss(logits, labels),
        lambda logits, labels: causal_lm_loss(logits, labels, LossSettings(label_smoothing=0.1)),
        lambda logits, labels: chunked(logits, labels, LossSettings(chunked=True)),
        classification_loss,
    ],
    ids=["plain", "smoothed", "chunked", "classification"],
)
def test_compiled_losses_are_nan(loss):
    compiled = tf.function(loss, jit_compile=True)
    logits = tf.random.stateless_normal([2, T, V], [1, 2])
    assert np.isfinite(compiled(logits, with_value(-100)))
    for wrong in (V, -1):
        assert np.isnan(compiled(logits, with_value(wrong)))


def test_generation_does_not_pay_for_it(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("generation must not come here")

    monkeypatch.setattr(base, "nan_outside", refuse)
    ids = make().generate(IDS, max_new_tokens=2, jit_compile=False, do_sample=False)
    assert ids.shape == (2, T + 2)


@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch"])
def test_one_batch_is_checked_before_the_step(method):
    model = make()
    model.compile("sgd")
    for name in ("input_ids", "labels"):
        batch = {"input_ids": IDS, "labels": IDS} | {name: with_value(V)}
        with pytest.raises(ValueError, match=rf"`{name}` must be in \[0, 20\).*={V}"):
            getattr(model, method)(batch)


def feeds(batch):
    """A batch as an array, as a dataset, and as a dataset of pairs without targets."""
    dataset = tf.data.Dataset.from_tensors(batch)
    return [batch, dataset, dataset.map(lambda x: (x, None))]


@pytest.mark.long
@pytest.mark.parametrize("name", [
    "input_ids",
    *(pytest.param(name, marks=pytest.mark.long)
      for name in ("labels", "token_type_ids", "position_ids")),
])  # fmt: skip
def test_fit_refuses_a_batch_before_the_step(name):
    model = make()
    model.compile("sgd", jit_compile=True)
    before = model.get_weights()
    limit = 8 if name == "position_ids" else V
    batch = {"input_ids": IDS, "labels": IDS} | {name: with_value(limit)}
    expected = rf"`{name}` must be in \[0, {limit}\).* Received: {name}={limit}\."
    for data_ in feeds(batch):
        with pytest.raises(ValueError, match=expected):
            model.fit(data_, verbose=0)
        with pytest.raises(ValueError, match=expected):
            model.evaluate(data_, verbose=0)
    with pytest.raises(ValueError, match=expected):
        model.train_on_batch(batch)
    good = {"input_ids": IDS, "labels": IDS}
    for validation in (tf.data.Dataset.from_tensors(batch), (batch, None)):
        with pytest.raises(ValueError, match=expected):
            model.fit(good, validation_data=validation, verbose=0)
        break  # the second form needs no second compilation
    for mine, old in zip(model.get_weights(), before, strict=True):
        assert np.isfinite(mine).all() and (name == "labels" or mine.shape == old.shape)


def test_what_is_checked_depends_on_the_head():
    label = {"input_ids": IDS, "labels": np.array([0, 3])}
    per_token = {"input_ids": IDS, "labels": with_value(3, like=IDS % 3)}
    for kind, fields, batch, refused in (
        (TFGPT2ForSequenceClassification, {}, label, True),
        (TFGPT2ForSequenceClassification, {"problem_type": "regression"}, label, False),
        (TFGPT2ForSequenceClassification, {"num_labels": 1}, label, False),
        (TFGPT2ForSequenceClassification, {}, label | {"labels": np.ones([2, 3]) * 9.5}, False),
        (TFGPT2ForTokenClassification, {}, per_token, True),
        (TFGPT2LMHeadModel, {}, per_token, False),
    ):
        model = make(kind, **fields)
        if refused:
            with pytest.raises(ValueError, match=r"labels` must be in \[0, 3\).*labels=3"):
                data.check_batches(batch, model)
        else:
            assert data.check_batches(batch, model) is batch


def test_good_batches_are_unchanged():
    model = make()
    batch = {"input_ids": IDS.astype(np.uint8), "labels": with_value(-100), "attention_mask": IDS}
    dataset = tf.data.Dataset.from_tensors((batch, IDS, None)).repeat(3)
    checked = data.check_batches(dataset, model)
    assert checked.element_spec == dataset.element_spec and checked.cardinality() == 3
    for one, other in zip(checked, dataset, strict=True):
        tf.nest.map_structure(
            lambda a, b: None if a is None else np.testing.assert_array_equal(a, b), one, other
        )
    for other in (None, iter([batch]), [[1, 2], [3]], tf.ragged.constant([[99], [1, 2]])):
        assert data.check_batches(other, model) is other
    for other in (np.int64(1) + IDS, [IDS, IDS * 99], IDS.tolist()):
        assert data.check_batches(other, model) is other  # the second of a list is a mask
    error = tf.errors.InvalidArgumentError(None, None, "something else")
    assert batch_checks.explain_failure(error, model) is error


def test_the_error_for_nan_names_the_cause():
    callback = StopOnNaN()
    callback.set_model(make())
    with pytest.raises(FloatingPointError, match=r"ids or labels outside \[0, 20\)"):
        callback.at_step(1, 1, {"loss": float("nan")})
