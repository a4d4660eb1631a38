"""Keras' own ways to use a model: `Sequential` with the tokenizer, and `model.export`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2 import GPT2Config, TFGPT2Tokenizer

LETTERS = [chr(97 + i) for i in range(26)] + ["\u0120"]
TEXTS = tf.constant(["a dog", "my cat sat"])
IDS = tf.constant([[1, 2, 3], [4, 5, 0]])
MASK = tf.constant([[1, 1, 1], [1, 1, 0]])
CONFIG = {"vocab_size": 27, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2,
          "pad_token_id": 0}  # fmt: skip
HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
         "DoubleHeadsModel")  # fmt: skip


def make(head="LMHeadModel"):
    return getattr(tfgpt2, f"TFGPT2{head}")(GPT2Config(**CONFIG))


@pytest.fixture(scope="module")
def model():
    model = make()
    model(IDS)
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return TFGPT2Tokenizer({token: i for i, token in enumerate(LETTERS)}, [], pad_token_id=0)


def serve(folder, inputs):
    """What the exported `serve` answers, after a check that the signature answers the same."""
    loaded = tf.saved_model.load(folder)
    found = loaded.serve(inputs)
    if isinstance(inputs, dict):
        for name, value in loaded.signatures["serving_default"](**inputs).items():
            np.testing.assert_array_equal(value, found[name])
    return found


def test_sequential_takes_texts(model, tokenizer):
    sequential = keras.Sequential([tokenizer, model])
    expected = model(tokenizer(TEXTS)).logits
    np.testing.assert_allclose(sequential(TEXTS)["logits"], expected, atol=1e-5)


@pytest.mark.long
def test_sequential_with_an_input_predicts(model, tokenizer):
    sequential = keras.Sequential([keras.Input((), dtype="string"), tokenizer, model])
    found = sequential.predict(TEXTS, verbose=0)["logits"]
    np.testing.assert_allclose(found, model(tokenizer(TEXTS)).logits, atol=1e-5)


@pytest.mark.long
def test_sequential_exports(model, tokenizer, tmp_path):
    sequential = keras.Sequential([tokenizer, model])
    found = sequential(TEXTS)
    assert list(found) == ["logits"]  # an export takes no cache
    sequential.export(str(tmp_path / "1"), verbose=False)
    loaded = tf.saved_model.load(tmp_path / "1")
    np.testing.assert_allclose(loaded.serve(TEXTS)["logits"], found["logits"], atol=1e-5)


@pytest.mark.parametrize(
    "head", ["LMHeadModel", *(pytest.param(head, marks=pytest.mark.long) for head in HEADS)]
)
def test_export_takes_ids_and_mask_by_name(head, tmp_path):
    model = make(head)
    model.export(str(tmp_path / "1"), verbose=False)
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    if head == "DoubleHeadsModel":
        inputs = {name: value[None] for name, value in inputs.items()}
        inputs["mc_token_ids"] = tf.constant([[2, 1]])
    found, expected = serve(tmp_path / "1", inputs), model(inputs)
    names = {name for name in expected if name != "past_key_values"}
    assert found.keys() == names
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


SPEC = keras.InputSpec(shape=(None, None), dtype="int32")
BY_NAME = {"input_ids": tf.TensorSpec([None, None], tf.int64)}


@pytest.mark.parametrize(
    "signature, arguments",
    [
        ([SPEC, SPEC], (IDS, MASK)),
        pytest.param([SPEC], (IDS,), marks=pytest.mark.long),
        pytest.param([IDS], (IDS,), marks=pytest.mark.long),
        pytest.param([BY_NAME], ({"input_ids": tf.cast(IDS, tf.int64)},), marks=pytest.mark.long),
        pytest.param([[SPEC, SPEC]], ([IDS, MASK],), marks=pytest.mark.long),
    ],
)
def test_export_with_a_signature(signature, arguments, model, tmp_path):
    model.export(str(tmp_path / "1"), input_signature=signature, verbose=False)
    loaded = tf.saved_model.load(tmp_path / "1")
    inputs = arguments[0] if len(arguments) == 1 else list(arguments)
    np.testing.assert_allclose(loaded.serve(*arguments)["logits"], model(inputs).logits, atol=1e-5)


@pytest.mark.parametrize(
    "signature, error, message",
    [
        ({"ids": tf.TensorSpec([None, None], tf.int32)}, TypeError, "has no input 'ids'"),
        ([keras.InputSpec(shape=(None, None), dtype="float32")], TypeError, "must hold integers"),
        ([keras.InputSpec(ndim=2)], ValueError, "needs a spec with a shape"),
        ([tf.TensorSpec(None, tf.int32)], ValueError, "needs a spec with a shape"),
        (3, ValueError, "needs a spec with a shape.*input_ids=3"),
        ([tf.TensorSpec([None, None], tf.int32)] * 4, TypeError, "Inputs in order are"),
    ],
)
def test_signatures_that_do_not_fit(signature, error, message, model, tmp_path):
    with pytest.raises(error, match=message):
        model.export(str(tmp_path / "1"), input_signature=signature, verbose=False)
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize("side", ["left", "right"])
def test_multiples_of_columns_in_a_functional_model(side):
    tokenizer = TFGPT2Tokenizer(
        {token: i for i, token in enumerate(LETTERS)}, [], pad_token_id=0, pad_to_multiple_of=8,
        padding_side=side,
    )  # fmt: skip
    text = keras.Input((), dtype="string")
    batch = keras.Model(text, tokenizer(text))(TEXTS)
    plain = tokenizer(TEXTS)
    assert batch["input_ids"].shape == (2, 16)
    for name in batch:
        np.testing.assert_array_equal(batch[name], plain[name])
    assert tokenizer(tf.constant([], tf.string))["input_ids"].shape == (0, 0)
