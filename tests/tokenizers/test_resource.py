"""The SentencePiece model outlives TensorFlow's caches, and vocabularies never mix."""

import gc

import keras
import pytest
import tensorflow as tf

from tfgpt2 import TFGPT2Tokenizer

TEXTS = ["abba", "b ab"]


def tokenizer(*merges):
    vocab = {"a": 0, "b": 1, "\u0120": 2, "ab": 3, "ba": 4}
    return TFGPT2Tokenizer(vocab, merges)


def ids_of(layer):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def ids(text):
        return layer.tokenize(text).to_tensor(-1)

    return ids


@pytest.mark.long
def test_a_tokenizer_survives_new_seeds_and_other_tokenizers():
    one, other = tokenizer("a b"), tokenizer("b a")
    expected = one.tokenize(TEXTS).to_list(), other.tokenize(TEXTS).to_list()
    assert expected[0] != expected[1]
    keras.utils.set_random_seed(0)  # clears TensorFlow's caches of kernels
    twin = tokenizer("a b")
    assert (one.tokenize(TEXTS).to_list(), other.tokenize(TEXTS).to_list()) == expected
    del twin, other
    gc.collect()
    tf.random.set_seed(1)
    assert one.tokenize(TEXTS).to_list() == expected[0]


def test_a_loaded_model_survives_new_seeds_beside_another_vocabulary(tmp_path):
    answers = {}
    for merge in ("a b", "b a"):
        layer = tokenizer(merge)
        module = tf.Module()
        module.layer = layer
        module.ids = ids_of(layer)
        tf.saved_model.save(module, str(tmp_path / merge))
        answers[merge] = layer.tokenize(TEXTS).to_tensor(-1).numpy().tolist()
    loaded = {merge: tf.saved_model.load(str(tmp_path / merge)) for merge in answers}
    tf.random.set_seed(2)
    for merge, expected in answers.items():
        assert loaded[merge].ids(tf.constant(TEXTS)).numpy().tolist() == expected
