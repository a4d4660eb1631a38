"""Blockwise attention and gradient checkpointing in whole models: same results, less memory."""

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2 import GPT2Config

SHAPE = {"vocab_size": 61, "n_positions": 300, "n_embd": 32, "n_layer": 3, "n_head": 4}
IDS = np.random.default_rng(0).integers(0, 61, (2, 140))  # more than one block of queries
MASK = np.arange(140) < np.array([[140], [90]])


def make_plain_and_blockwise(rate, **changes):
    """Two models with the same weights: plain attention and blockwise attention."""
    rates = {name: rate for name in ("attn_pdrop", "resid_pdrop", "embd_pdrop")}
    models = [
        tfgpt2.TFGPT2LMHeadModel(GPT2Config(**SHAPE, **rates, **changes, attn_implementation=kind))
        for kind in ("eager", "blockwise")
    ]
    for one, other in zip(models[0].weights, models[1].weights, strict=True):
        one.assign(np.random.default_rng(3).normal(0, 0.2, one.shape))
        other.assign(one)
    return models


def loss_and_gradients(model, training):
    with tf.GradientTape() as tape:
        loss = model(IDS, attention_mask=MASK, labels=IDS, training=training, use_cache=None).loss
    values = [weight.value for weight in model.trainable_weights]
    return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, values)]


@pytest.mark.parametrize("changes", [{}, {"reorder_and_upcast_attn": True}])
def test_blockwise_model_equals_the_plain_one(changes):
    plain, blockwise = make_plain_and_blockwise(0.0, **changes)
    expected, found = loss_and_gradients(plain, False), loss_and_gradients(blockwise, False)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4 * max(1, np.abs(other).max()))
    heads = np.array([[1, 0, 1, 1], [0.5, 1, 1, 0], [1, 1, 1, 1]], np.float32)
    np.testing.assert_allclose(
        blockwise(IDS, head_mask=heads).logits, plain(IDS, head_mask=heads).logits, atol=1e-3
    )
    past = plain(IDS[:, :100]).past_key_values
    np.testing.assert_allclose(
        blockwise(IDS[:, 100:], past_key_values=past).logits,
        plain(IDS[:, 100:], past_key_values=past).logits,
        atol=1e-3,
    )


@pytest.mark.long
def test_blockwise_model_generates_the_same_tokens():
    plain, blockwise = make_plain_and_blockwise(0.0)
    options = {"max_new_tokens": 6, "attention_mask": MASK}
    np.testing.assert_array_equal(
        plain.generate(IDS, **options), blockwise.generate(IDS, **options)
    )


@pytest.mark.long
@pytest.mark.parametrize(("rate", "kind"), [
    (0.3, 1),
    *(pytest.param(*one, marks=pytest.mark.long) for one in [(0.0, 0), (0.0, 1), (0.3, 0)]),
])  # fmt: skip
def test_checkpointing_gives_the_same_loss_and_gradients(kind, rate):
    model = make_plain_and_blockwise(rate)[kind]
    seeds = model.transformer.seeds.state
    before = tf.identity(seeds.value)
    expected = tf.function(loss_and_gradients)(model, True)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    seeds.assign(before)  # the same dropout again
    found = tf.function(loss_and_gradients)(model, True)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1, np.abs(other).max()))


def test_dropout_differs_from_step_to_step_and_from_block_to_block():
    model = make_plain_and_blockwise(0.5)[0]
    one, two = (model(IDS, training=True).logits for _ in range(2))
    assert np.abs(one - two).max() > 0.01
    np.testing.assert_array_equal(model(IDS).logits, model(IDS).logits)


def test_outputs_that_are_not_kept_cannot_be_returned():
    plain, blockwise = make_plain_and_blockwise(0.0)
    with pytest.raises(ValueError, match=r"`attentions` cannot be returned.*Received.*eager"):
        blockwise(IDS, output_attentions=True)
    plain.gradient_checkpointing_enable()
    assert plain(IDS, training=True).past_key_values is None
    with pytest.raises(ValueError, match=r"`past_key_values` cannot be returned"):
        plain(IDS, training=True, use_cache=True)
    assert plain(IDS).past_key_values is not None
    plain.gradient_checkpointing_disable()
    assert plain(IDS, training=True).past_key_values is not None
