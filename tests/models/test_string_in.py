"""Tokenizer layer and heads in one Keras model, from text to scores, which also exports."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2 import GPT2Config, TFGPT2Tokenizer

LETTERS = [chr(97 + i) for i in range(26)] + ["\u0120"]  # U+0120 is how a vocabulary writes " "
TEXTS = ["a dog sat", "my cat", "q"]
HEADS = {
    "LMHeadModel": "logits",
    "ForSequenceClassification": "logits",
    "ForTokenClassification": "logits",
    "ForQuestionAnswering": "start_logits",
    "Model": "last_hidden_state",
}
RUN = """
import sys
import numpy as np
import tensorflow as tf
import tensorflow_text
loaded = tf.saved_model.load(sys.argv[1])
result = loaded.serve(tf.constant(sys.argv[3:]))
np.save(sys.argv[2], result)
assert "tfgpt2" not in sys.modules
"""


@pytest.fixture(scope="module")
def tokenizer():
    return TFGPT2Tokenizer({token: i for i, token in enumerate(LETTERS)}, [], pad_token_id=0)


def make_model(head, **changes):
    config = GPT2Config.from_dict({
        "vocab_size": 27, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2,
        "initializer_range": 0.3, "num_labels": 3, "pad_token_id": 0,
    } | changes)  # fmt: skip
    return getattr(tfgpt2, f"TFGPT2{head}")(config)


@pytest.mark.parametrize("head", HEADS)
def test_functional_model_equals_its_parts_and_reloads(head, tokenizer, tmp_path):
    model = make_model(head)
    text = keras.Input((), dtype="string")
    whole = keras.Model(text, model(tokenizer(text))[HEADS[head]])
    expected = model(tokenizer(TEXTS))[HEADS[head]]
    np.testing.assert_allclose(whole(tf.constant(TEXTS)), expected, atol=1e-5)
    whole.save(tmp_path / "whole.keras")
    again = keras.models.load_model(tmp_path / "whole.keras")
    np.testing.assert_allclose(again(tf.constant(TEXTS)), expected, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "head", [pytest.param("ForSequenceClassification", marks=pytest.mark.long), "LMHeadModel"]
)
def test_export_runs_without_this_package(head, tokenizer, tmp_path):
    model = make_model(head)
    text = keras.Input((), dtype="string")
    whole = keras.Model(text, model(tokenizer(text))[HEADS[head]])
    whole.export(str(tmp_path / "1"), verbose=False)
    command = [sys.executable, "-c", RUN, tmp_path / "1", tmp_path / "result.npy", *TEXTS]
    subprocess.run(command, check=True, cwd=tmp_path)
    np.testing.assert_allclose(
        np.load(tmp_path / "result.npy"), whole(tf.constant(TEXTS)), atol=1e-4
    )


def test_double_heads_read_choices_of_texts(tokenizer):
    model = make_model("DoubleHeadsModel")
    choices = tf.constant([["a cat", "a dog barks"], ["we", "you all"]])
    batch = tokenizer(choices)
    assert batch["input_ids"].shape == (2, 2, 11)
    out = model(batch, mc_token_ids=tf.reduce_sum(batch["attention_mask"], -1) - 1)
    assert out.mc_logits.shape == (2, 2)
    alone = model(tokenizer(choices[:1, :1]))
    np.testing.assert_allclose(out.mc_logits[0, 0], alone.mc_logits[0, 0], atol=1e-5)


@pytest.mark.long
def test_a_string_pipeline_trains_a_classifier(tokenizer):
    keras.utils.set_random_seed(0)
    model = make_model("ForSequenceClassification", num_labels=2, initializer_range=0.05)
    texts = ["good day", "bad luck", "good fun", "bad meal"] * 4
    data = tf.data.Dataset.from_tensor_slices((texts, [1, 0, 1, 0] * 4)).batch(8)
    data = data.map(lambda text, label: (tokenizer(text), label))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss=loss, metrics=["accuracy"])
    model.fit(data, epochs=15, verbose=0)
    assert model.evaluate(data, verbose=0, return_dict=True)["accuracy"] == 1.0
    answers = model.predict(data.map(lambda batch, label: batch), verbose=0)
    assert answers["logits"].shape == (16, 2) and "past_key_values" not in answers


@pytest.mark.long
def test_fit_takes_sample_weights_callbacks_and_single_batches(tokenizer):
    model = make_model("ForSequenceClassification", num_labels=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss=loss, weighted_metrics=["accuracy"],
                  jit_compile=False)  # fmt: skip
    batch, labels = tokenizer(TEXTS), np.array([0, 1, 1])
    logged = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda b, logs: logged.append(logs)
    )
    ignore_first = np.array([0.0, 1.0, 1.0])
    model.fit(batch, labels, sample_weight=ignore_first, verbose=0, callbacks=[callback])
    assert len(logged) == 1 and np.isfinite(logged[0]["loss"])
    full = model.test_on_batch(batch, labels, sample_weight=np.ones(3))[0]
    part = model.test_on_batch(batch, labels, sample_weight=ignore_first)[0]
    assert full != part
    before = model.train_on_batch(batch, labels)
    assert np.isfinite(before).all()


# Two replicas on one CPU: as many steps as one replica, on the same global batches.
REPLICAS = """
import sys
import keras, numpy as np, tensorflow as tf
devices = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    devices[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import tfgpt2
ids = np.random.default_rng(0).integers(0, 20, (8, 6))
def train(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config(
            vocab_size=20, n_positions=6, n_embd=8, n_layer=1, n_head=2,
            attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0))
        model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices({"input_ids": ids, "labels": ids}).batch(4)
    history = model.fit(data, epochs=3, verbose=0, shuffle=False)
    return history.history["loss"], model.get_weights()
one = train(tf.distribute.OneDeviceStrategy("/cpu:0"))
two = train(tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]))
assert tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]).num_replicas_in_sync == 2
np.testing.assert_allclose(one[0], two[0], rtol=1e-4)
for a, b in zip(one[1], two[1]):
    np.testing.assert_allclose(a, b, atol=1e-5)
print("equal")
"""


@pytest.mark.long
def test_two_replicas_train_like_one():
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
