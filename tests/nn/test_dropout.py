"""Dropout: the rate, the independence of its decisions, scaling and gradients."""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2.nn.layers import dropout, dropout_mask, fold_in


def draw_mask(shape: tuple[int, ...], rate: float, seed: int = 0) -> tuple[np.ndarray, float]:
    """Draws a mask as the layers do."""
    kept, scale = dropout_mask(tf.constant(shape, tf.int32), rate, tf.constant([seed, 1]))
    return kept.numpy(), scale


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.5, 0.9, 0.9999])
def test_the_rate_is_as_stated(rate: float):
    kept, scale = draw_mask((1000, 1000), rate)
    assert kept.shape == (1000, 1000)
    deviation = 5 * np.sqrt(rate * (1 - rate) / 1e6)  # five sigma
    assert abs((1 - kept.mean()) - rate) <= deviation + 1 / 65_536
    np.testing.assert_allclose(scale, 1 / (1 - rate), rtol=0.5 / 65_536 / (1 - rate))


def test_decisions_from_the_same_32_bits_are_independent():
    """Neighbours up to a distance of four are both kept as often as independent ones."""
    kept, _ = draw_mask((1_000_000,), 0.3)
    for distance in (1, 2, 3, 4):
        for start in (0, 1):  # the first and the second half of the bits
            one, other = kept[start:-distance:2], kept[start + distance :: 2]
            size = min(len(one), len(other))
            both = np.mean(one[:size] & other[:size])
            assert abs(both - 0.7 * 0.7) < 5 * np.sqrt(0.49 * 0.51 / size)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7), (2, 2), (0, 4)])
def test_any_shape(shape: tuple[int, ...]):
    kept, _ = draw_mask(shape, 0.5)
    assert kept.shape == shape


def test_seeds_and_places_differ():
    x, seed = tf.ones([64, 64]), tf.constant([3, 4])
    first, again = dropout(x, 0.5, seed, 0), dropout(x, 0.5, seed, 0)
    np.testing.assert_array_equal(first, again)
    for other in (dropout(x, 0.5, seed, 1), dropout(x, 0.5, fold_in(seed, 7), 0)):
        assert 0.4 < np.mean(first.numpy() != other.numpy()) < 0.6


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_kept_elements_are_scaled_and_pass_gradients(dtype, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def run(x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = dropout(x, 0.25, seed, 0)
        return y, tape.gradient(y, x)

    x = tf.cast(tf.random.stateless_uniform([33, 7], [1, 2], 1.0, 2.0), dtype)
    y, gradient = (tf.cast(t, tf.float32).numpy() for t in run(x, tf.constant([5, 6])))
    kept, scale = y != 0, 4 / 3  # XLA draws other numbers than the kernels do
    assert 0.6 < kept.mean() < 0.9
    tolerance = {"float32": 1e-6, "bfloat16": 1e-2, "float16": 1e-3}[dtype]
    np.testing.assert_allclose(y, np.where(kept, tf.cast(x, tf.float32) * scale, 0), rtol=tolerance)
    np.testing.assert_allclose(gradient, np.where(kept, scale, 0), rtol=tolerance)
