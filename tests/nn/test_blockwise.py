"""Blockwise attention against plain attention: outputs and gradients, with XLA and without."""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2.nn.attention import attend, causal_mask
from tfgpt2.nn.blockwise import blockwise_attend


def draw(length, columns, seed=0):
    rng = np.random.default_rng(seed)
    sizes = {"q": length, "k": columns, "v": columns}
    return [tf.constant(rng.normal(size=(2, 3, s, 8)), tf.float32) for s in sizes.values()]


def masks(length, columns):
    past = columns - length
    causal = causal_mask(past + tf.range(length), tf.range(columns))
    padding = tf.constant(np.arange(columns) < np.array([[columns], [columns // 2]]))
    return {
        "none": None,
        "causal": causal,
        "padded": causal & padding[:, None, None],
        "all masked": causal & tf.zeros([2, 1, 1, columns], tf.bool),
    }


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("mask", ["none", "causal", "padded", "all masked"])
@pytest.mark.parametrize(("length", "columns"), [(1, 1), (7, 7), (8, 8), (9, 20), (33, 33)])
def test_output_and_gradients_are_those_of_plain_attention(length, columns, mask, jit):
    tensors = draw(length, columns)
    visible = masks(length, columns)[mask]
    upstream = tf.constant(np.random.default_rng(9).normal(size=(2, 3, length, 8)), tf.float32)

    def output_and_gradients(function):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = function(*tensors)
        return output, *tape.gradient(output, tensors, upstream)

    def plain(*qkv):
        return attend(*qkv, visible, scale=0.3, dropout=lambda weights: weights)[0]

    def blockwise(*qkv):
        return blockwise_attend(*qkv, visible, scale=0.3, block=8)

    expected = output_and_gradients(plain)
    found = tf.function(lambda: output_and_gradients(blockwise), jit_compile=jit)()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_dropout_is_the_same_in_both_passes():
    """With dropout the output is linear in the values: its gradient is the weights it used."""
    query, key, value = draw(12, 12)
    seed = tf.constant([3, 4])

    def output(value):
        return blockwise_attend(query, key, value, None, scale=0.3, dropout=0.5, seed=seed, block=8)

    with tf.GradientTape() as tape:
        tape.watch(value)
        total = tf.reduce_sum(output(value))
    gradient = tape.gradient(total, value)
    np.testing.assert_allclose(tf.reduce_sum(gradient * value), total, rtol=1e-4)
    nudged = [tf.reduce_sum(output(value + e)) for e in (-0.5, 0.5)]
    np.testing.assert_allclose(nudged[1] - nudged[0], tf.reduce_sum(gradient), rtol=1e-3)


def test_dropout_zeroes_the_stated_share_and_keeps_the_mean():
    query, key, _ = draw(64, 64)
    ones = tf.eye(64, batch_shape=[2, 3])  # the output is then the weights themselves
    weights = blockwise_attend(
        query, key, ones, None, scale=0.0, dropout=0.25, seed=tf.constant([1, 2]), block=16
    ).numpy()
    dropped = (weights == 0).mean()
    # 24576 draws: the standard deviation of the share is 0.0028.
    assert abs(dropped - 0.25) < 0.012
    np.testing.assert_allclose(weights[weights > 0], 1 / 64 / 0.75, rtol=1e-5)


def test_the_full_score_matrix_is_never_materialised():
    length = 512
    query, key, value = (tf.TensorSpec([1, 2, length, 8]) for _ in range(3))

    @tf.function(input_signature=[query, key, value])
    def gradients(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = blockwise_attend(*tensors, None, scale=1.0, block=64)
        return tape.gradient(output, tensors)

    graph = gradients.get_concrete_function().graph
    functions = [graph, *(f.graph for f in graph._functions.values() if hasattr(f, "graph"))]
    shapes = [t.shape for g in functions for op in g.get_operations() for t in op.outputs]
    assert any(shape.rank == 4 for shape in shapes)
    assert not any(shape.rank == 4 and list(shape)[-2:] == [length, length]
                   and list(shape)[1] == 2 for shape in shapes)  # fmt: skip


def test_bfloat16_stays_close_and_keeps_its_type():
    tensors = draw(16, 16)
    exact = blockwise_attend(*tensors, None, scale=0.3, block=8)
    low = blockwise_attend(
        *(tf.cast(t, tf.bfloat16) for t in tensors), None, scale=0.3, block=8, upcast=True
    )
    assert low.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(low, tf.float32), exact, atol=0.03)
