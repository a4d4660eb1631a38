"""`ModelOutput`: access by key, attribute and index, and as a Keras and TensorFlow structure."""

import copy
import pickle

import keras
import pytest
import tensorflow as tf

from tfgpt2.outputs import ModelOutput, TFCausalLMOutputWithCrossAttentions


def make_output():
    return TFCausalLMOutputWithCrossAttentions(logits=2, loss=1, past_key_values=(3, 4))


def test_access_by_attribute_key_and_index():
    out = make_output()
    assert out.loss == out["loss"] == out[0] == 1
    assert list(out) == ["loss", "logits", "past_key_values"] and len(out) == 3
    assert out.to_tuple() == (1, 2, (3, 4)) == out[:] and out[-1] == (3, 4)
    assert out.attentions is None and "attentions" not in out
    loss, logits, _ = out.to_tuple()
    assert (loss, logits) == (1, 2) and dict(out) == {"loss": 1, "logits": 2,
                                                      "past_key_values": (3, 4)}  # fmt: skip


def test_logits_come_first_without_a_loss():
    assert TFCausalLMOutputWithCrossAttentions(loss=None, logits=2)[0] == 2


def test_unknown_fields_raise():
    out = make_output()
    with pytest.raises(AttributeError, match="no attribute 'logit'"):
        out.logit  # noqa: B018
    with pytest.raises(KeyError):
        out["attentions"]
    with pytest.raises(IndexError):
        out[3]
    with pytest.raises(TypeError, match="no field 'logit'.*Did you mean 'logits'"):
        TFCausalLMOutputWithCrossAttentions(logit=2)


def test_copy_and_pickle():
    out = make_output()
    for copied in (copy.copy(out), copy.deepcopy(out), pickle.loads(pickle.dumps(out))):
        assert copied == out and type(copied) is type(out) and list(copied) == list(out)


def test_plain_output_accepts_any_field():
    out = ModelOutput(a=1, b=None, c=3)
    assert list(out) == ["a", "c"] and out.c == 3 and out[1] == 3


@pytest.mark.parametrize("nest", [tf.nest, keras.tree])
def test_nested_structures(nest):
    out = make_output()
    assert sorted(nest.flatten(out)) == [1, 2, 3, 4]
    doubled = nest.map_structure(lambda x: 2 * x, out)
    assert type(doubled) is type(out) and list(doubled) == list(out)
    assert doubled.to_tuple() == (2, 4, (6, 8))


def test_keras_keeps_the_field_order():
    assert keras.tree.flatten(make_output()) == [1, 2, 3, 4]


def test_through_tf_function():
    @tf.function
    def call(x):
        return TFCausalLMOutputWithCrossAttentions(logits=x, loss=2 * x, past_key_values=(x, x))

    out = call(tf.constant(1.0))
    assert type(out) is TFCausalLMOutputWithCrossAttentions
    assert list(out) == ["loss", "logits", "past_key_values"] and float(out.loss) == 2
