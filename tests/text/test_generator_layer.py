"""`TextGenerator` as a Keras layer: called, mapped, saved and loaded."""

import keras
import pytest
import tensorflow as tf

from tests.support import toy_text
from tfgpt2 import GenerationConfig, TextGenerator


@pytest.fixture(scope="module")
def config():
    return GenerationConfig(max_new_tokens=6, stop_strings=["zz"], eos_token_id=5)


@pytest.fixture(scope="module")
def keras_gen(gen, config):
    return TextGenerator(gen.model, gen.tokenizer, config, jit_compile=False)


def test_call_and_functional_model(keras_gen):
    texts = tf.constant(["abc", "the"])
    expected = [text.encode() for text in keras_gen.generate(["abc", "the"])]
    assert keras_gen(texts).numpy().tolist() == expected
    assert keras_gen(tf.constant("abc")).numpy() == expected[0]
    assert keras_gen(tf.constant([], tf.string)).shape == (0,)
    text = keras.Input((), dtype="string")
    model = keras.Model(text, keras_gen(text))
    assert model(texts).numpy().tolist() == expected
    assert model.predict(texts, verbose=0).tolist() == expected


def test_dataset_map(keras_gen):
    texts = ["abc", "the", "é"]
    data = tf.data.Dataset.from_tensor_slices(texts).batch(2).map(keras_gen)
    texts_out = [text for batch in data for text in batch.numpy()]
    assert texts_out == [text.encode() for text in keras_gen.generate(texts)]


def test_save_and_load_a_keras_file(keras_gen, config, tmp_path):
    keras_gen.save(tmp_path / "generator.keras")
    loaded = keras.models.load_model(tmp_path / "generator.keras")
    assert loaded.generation_config == config and loaded.prompt_buckets == keras_gen.prompt_buckets
    assert loaded.generate(["abc", "é"]) == keras_gen.generate(["abc", "é"])


def test_save_pretrained_and_from_pretrained(keras_gen, config, tmp_path):
    keras_gen.save_pretrained(tmp_path)
    loaded = TextGenerator.from_pretrained(tmp_path, jit_compile=False)
    assert loaded.generation_config.stop_strings == ["zz"]
    assert loaded.generate(["abc", "é"]) == keras_gen.generate(["abc", "é"])


def test_changed_weights_are_used():
    own = toy_text.generator(jit_compile=False)
    before = own.generate("abc", max_new_tokens=8)
    own.model.transformer.wte.weight.assign(own.model.transformer.wte.weight[::-1])
    assert own.generate("abc", max_new_tokens=8) != before
