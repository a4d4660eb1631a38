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


@pytest.mark.long
def test_dataset_map(keras_gen):
    texts = ["abc", "the", "é"]
    data = tf.data.Dataset.from_tensor_slices(texts).batch(2).map(keras_gen)
    texts_out = [text for batch in data for text in batch.numpy()]
    assert texts_out == [text.encode() for text in keras_gen.generate(texts)]


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: [one], lambda one: one[0]])
def test_generate_in_a_graph_says_what_to_call(keras_gen, wrap):
    message = r"(?s)cannot be part of a graph.*Received: prompts=.*generator\(strings\)"
    data = tf.data.Dataset.from_tensor_slices(["abc", "the"]).batch(2)
    with pytest.raises(TypeError, match=message):
        data.map(lambda texts: keras_gen.generate(wrap(texts)))
    with pytest.raises(TypeError, match=message):
        tf.function(lambda texts: keras_gen.stream(wrap(texts)))(tf.constant(["abc"]))
    with pytest.raises(TypeError, match=message):
        keras_gen.generate(wrap(keras.Input((), dtype="string")))


@pytest.mark.long
def test_a_compiled_generator_in_a_dataset(compiled):
    data = tf.data.Dataset.from_tensor_slices(["abc"])
    config = GenerationConfig(max_new_tokens=4)
    own = TextGenerator(compiled.model, compiled.tokenizer, config)
    texts = [text.numpy() for text in data.map(own)]  # one at a time
    assert texts == [own.generate("abc").encode()]


def test_no_texts(keras_gen):
    for options in ({}, {"num_beams": 2, "num_return_sequences": 2}, {"max_time": 1.0},
                    {"penalty_alpha": 0.5, "top_k": 4}, {"regex": "a+"}, {"max_new_tokens": []},
                    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
                    {"prompt_lookup_num_tokens": 2}, {"guidance_scale": 1.5}):  # fmt: skip
        assert keras_gen.generate([], details=True, **options) == []
    assert keras_gen.generate(tf.constant([], tf.string), guidance_scale=1.5,
                              negative_prompt=[]) == []  # fmt: skip


@pytest.mark.long
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


@pytest.mark.long
def test_changed_weights_are_used():
    own = toy_text.generator(jit_compile=False)
    before = own.generate("abc", max_new_tokens=8)
    own.model.transformer.wte.weight.assign(own.model.transformer.wte.weight[::-1])
    assert own.generate("abc", max_new_tokens=8) != before
