"""`tf.train.Checkpoint` holds every weight of every class."""

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2

CLASSES = (
    "TFGPT2Model",
    "TFGPT2LMHeadModel",
    "TFGPT2DoubleHeadsModel",
    "TFGPT2ForSequenceClassification",
    "TFGPT2ForTokenClassification",
    "TFGPT2ForQuestionAnswering",
)


def make_model(name, **options):
    config = tfgpt2.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=31, n_positions=12, num_labels=3, **options
    )
    return getattr(tfgpt2, name)(config)


@pytest.mark.parametrize("name", CLASSES)
def test_a_checkpoint_restores_every_weight(name, tmp_path):
    options = {"add_cross_attention": True} if name == "TFGPT2Model" else {}
    saved, other = make_model(name, **options), make_model(name, **options)
    path = tf.train.Checkpoint(model=saved).write(str(tmp_path / "checkpoint"))
    for weight in other.weights:
        weight.assign(weight + 1)
    tf.train.Checkpoint(model=other).read(path).assert_consumed()
    for before, after in zip(saved.weights, other.weights, strict=True):
        np.testing.assert_array_equal(after.numpy(), before.numpy(), err_msg=after.path)
