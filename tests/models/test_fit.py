"""`fit`, `evaluate` and `predict`: the model's own loss, a compiled loss, and neither or both."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import model_cases as cases
from tfgpt2 import GPT2Config, TFGPT2ForSequenceClassification, TFGPT2LMHeadModel

IDS = np.random.RandomState(0).randint(0, 23, (8, 1)) + np.arange(12)
IDS = IDS % 23  # each token is the one before, plus one: learnable
QUIET = {"n_layer": 1, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}


def make_model(**fields):
    keras.utils.set_random_seed(0)
    return TFGPT2LMHeadModel(GPT2Config(**(cases.BASE | QUIET | fields)))


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_own_loss():
    model = make_model()
    data = tf.data.Dataset.from_tensor_slices({"input_ids": IDS, "labels": IDS}).batch(4)
    model.compile(keras.optimizers.Adam(0.01))
    before = model.evaluate(data, verbose=0)
    np.testing.assert_allclose(before, model(IDS, labels=IDS).loss, rtol=1e-4)
    model.fit(data, epochs=20, verbose=0)
    assert model.evaluate(data, verbose=0) < 0.5 * before


@pytest.mark.parametrize("loss", ["auto", "passthrough"])
def test_names_of_the_own_loss(loss):
    model = make_model()
    model.compile("sgd", loss=loss)
    found = model.evaluate({"input_ids": IDS, "labels": IDS}, verbose=0)
    np.testing.assert_allclose(found, model(IDS, labels=IDS).loss, rtol=1e-4)


@pytest.mark.long
def test_compiled_loss_and_metrics():
    model, targets = make_model(), np.roll(IDS, -1, axis=1)
    model.compile(keras.optimizers.Adam(0.01), cross_entropy(), metrics=["accuracy"])
    first = model.evaluate(IDS, targets, verbose=0, return_dict=True)
    logits = model(IDS).logits
    expected = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    np.testing.assert_allclose(first["loss"], np.mean(expected), rtol=1e-4)
    np.testing.assert_allclose(first["accuracy"], (np.argmax(logits, -1) == targets).mean())
    history = model.fit(IDS, targets, epochs=30, verbose=0).history
    assert history["accuracy"][-1] > 0.6
    weighted = model.fit(IDS, targets, sample_weight=np.zeros(IDS.shape), verbose=0).history
    assert weighted["loss"][-1] == 0


@pytest.mark.parametrize(
    "loss, data",
    [
        (True, ({"input_ids": IDS, "labels": IDS}, None)),
        (True, ({"input_ids": IDS, "labels": IDS}, IDS)),
        (False, ({"input_ids": IDS, "labels": IDS}, IDS)),
        (False, (IDS, None)),
        (True, (IDS, None)),
    ],
)
def test_both_or_neither(loss, data):
    model = make_model()
    model.compile("sgd", cross_entropy() if loss else None)
    with pytest.raises(ValueError, match="not both, not neither.* Received: .*Use compile"):
        model.fit(*data, verbose=0)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "z_loss": 1e-3}])
def test_weights_of_texts_and_labels_with_the_own_loss(settings):
    model = make_model()
    model.compile(keras.optimizers.SGD(0.0), **settings)
    labels = IDS.copy()
    labels[2, 3:] = -100
    inputs = {"input_ids": IDS}

    def fitted(weights):
        return model.fit(inputs, labels, sample_weight=weights, verbose=0).history["loss"][0]

    own = model.fit(inputs, labels, verbose=0).history["loss"][0]
    np.testing.assert_allclose(fitted(np.ones(8)), own, rtol=1e-5)
    np.testing.assert_allclose(fitted(np.full(IDS.shape, 2.0)), 2 * own, rtol=1e-5)
    # One text, or one label, at a time: their parts of the mean add up to it.
    texts = [fitted(row) for row in np.eye(8)]
    np.testing.assert_allclose(sum(texts), own, rtol=1e-5)
    columns = [fitted(np.tile(row, (8, 1))) for row in np.eye(IDS.shape[1])]
    assert columns[0] == 0  # nothing predicts the first token
    np.testing.assert_allclose(sum(columns), own, rtol=1e-5)
    if not settings:
        scored = (labels[:, 1:] != -100).sum()
        one = model(IDS[:1], labels=labels[:1]).loss * (IDS.shape[1] - 1) / scored
        np.testing.assert_allclose(texts[0], one, rtol=1e-4)
    found = model.evaluate(inputs, labels, sample_weight=np.zeros(8), verbose=0, return_dict=True)
    assert found["loss"] == 0


@pytest.mark.parametrize("weights, settings, message", [
    ("sample_weight", {"chunked_loss": True}, "computes no losses of single texts"),
    ("class_weight", {}, "is for one class per text"),
    ("class_weight", {"loss": cross_entropy()}, "is for one class per text"),
])  # fmt: skip
def test_weights_that_cannot_act(weights, settings, message):
    model = make_model()
    model.compile("sgd", **settings)
    value = np.ones(8) if weights == "sample_weight" else {0: 2.0}
    with pytest.raises(ValueError, match=message):
        model.fit(IDS, np.abs(IDS), **{weights: value}, verbose=0)


def test_weights_of_another_shape_are_refused():
    model = make_model()
    model.compile("sgd")
    with pytest.raises(ValueError, match="one number for each example, or one for each of its"):
        model.fit(IDS, IDS, sample_weight=np.ones((*IDS.shape, 1)), verbose=0)


CLASSES = np.arange(8) % 3


def classifier():
    keras.utils.set_random_seed(0)
    fields = cases.BASE | QUIET | {"num_labels": 3, "pad_token_id": 0}
    return TFGPT2ForSequenceClassification(GPT2Config(**fields))


@pytest.mark.parametrize("name, value", [("class_weight", {0: 2.0}), ("sample_weight", CLASSES)])
def test_weights_with_labels_among_the_inputs(name, value):
    """Keras alone would ignore the second in `fit` and `evaluate`, and fail in the first."""
    model, data = classifier(), {"input_ids": IDS, "labels": CLASSES}
    model.compile(keras.optimizers.SGD(0.0))
    each = model.hf_compute_loss(CLASSES, model(IDS).logits).numpy()
    weights = np.where(CLASSES == 0, 2.0, 1.0) if name == "class_weight" else value
    expected = (each * weights).mean()
    found = [model.fit(data, **{name: value}, verbose=0).history["loss"][0],
             model.train_on_batch(data, **{name: value})]  # fmt: skip
    if name == "sample_weight":
        found.append(model.evaluate(data, sample_weight=value, verbose=0))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("data", [
    tf.data.Dataset.from_tensor_slices({"input_ids": IDS, "labels": CLASSES}).batch(4), IDS,
])  # fmt: skip
def test_weights_without_targets_are_refused(data):
    model = classifier()
    model.compile("sgd")
    with pytest.raises(
        ValueError, match="`class_weight` applies to targets.* Received: .*Use comp"
    ):
        model.fit(data, class_weight={0: 2.0}, verbose=0)


def test_weights_of_unshifted_labels_and_a_keras_loss_are_refused():
    model = make_model()
    model.compile("sgd", cross_entropy())
    with pytest.raises(ValueError, match="`sample_weight` applies to targets"):
        model.fit({"input_ids": IDS, "labels": IDS}, sample_weight=np.ones(8), verbose=0)


def test_the_way_on_with_weights():
    model = classifier()
    model.compile(keras.optimizers.SGD(0.0), cross_entropy())
    inputs = {"input_ids": IDS}
    logits = model(IDS).logits
    each = keras.losses.sparse_categorical_crossentropy(CLASSES, logits, from_logits=True)
    expected = np.mean(each * np.where(CLASSES == 0, 2.0, 1.0))
    rest = {1: 1.0, 2: 1.0}
    found = model.fit(inputs, CLASSES, class_weight={0: 2.0} | rest, verbose=0).history["loss"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    data = tf.data.Dataset.from_tensor_slices((inputs, CLASSES)).batch(8)
    found = model.fit(data, class_weight={0: 2.0} | rest, verbose=0).history["loss"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_metrics_need_targets():
    model = make_model()
    model.compile("sgd", cross_entropy(), metrics=["accuracy"])
    with pytest.raises(ValueError, match="Metrics compare the logits with targets"):
        model.compute_metrics({"input_ids": IDS}, None, model(IDS))


def test_ignored_labels():
    model = make_model()
    labels = IDS.copy()
    labels[:, 5:] = -100
    np.testing.assert_allclose(
        model(IDS, labels=labels).loss, model(IDS[:, :5], labels=IDS[:, :5]).loss, rtol=1e-5
    )
    assert float(model(IDS, labels=np.full_like(IDS, -100)).loss) == 0


def test_predict_joins_batches():
    model = make_model()
    out = model.predict({"input_ids": IDS, "labels": IDS}, batch_size=3, verbose=0)
    assert {name: value.shape for name, value in out.items()} == {"logits": (8, 12, 23)}
    np.testing.assert_allclose(out["logits"], model(IDS).logits, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("mixed_float16", marks=pytest.mark.long)]
)
def test_compiled_model_survives_a_keras_file(tmp_path, dtype):
    model = TFGPT2LMHeadModel(GPT2Config(**(cases.BASE | QUIET)), dtype=dtype)
    model.compile(keras.optimizers.Adam(0.01))
    data = {"input_ids": IDS, "labels": IDS}
    model.fit(data, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert int(again.optimizer.iterations.numpy()) == int(model.optimizer.iterations.numpy()) > 0
    states = zip(again.optimizer.variables, model.optimizer.variables, strict=True)
    assert all(np.array_equal(x, y) for x, y in states)
    assert len(again.optimizer.variables) > len(model.weights)
    losses = [m.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
              for m in (model, again)]  # fmt: skip
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5 if dtype == "float32" else 2e-2)


def test_untied_head_trains():
    model = make_model(tie_word_embeddings=False)
    before = model.lm_head.weight.numpy()
    model.compile("sgd")
    model.fit({"input_ids": IDS, "labels": IDS}, verbose=0)
    assert np.abs(model.lm_head.weight.numpy() - before).max() > 0
