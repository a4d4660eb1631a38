"""Label smoothing and z-loss compared to PyTorch and to their definition."""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2.nn.losses import LossSettings, causal_lm_loss

LOGITS = np.random.default_rng(0).normal(0, 3, (2, 9, 31)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 31, (2, 9))
LABELS[0, 3] = LABELS[1, 6:] = -100


def loss_and_gradient(settings, labels=LABELS):
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = causal_lm_loss(logits, tf.constant(labels), settings)
    return loss, tape.gradient(loss, logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_that_of_pytorch(smoothing):
    torch = pytest.importorskip("torch")
    logits = torch.tensor(LOGITS, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, 31), torch.tensor(LABELS[:, 1:]).reshape(-1),
        label_smoothing=smoothing,
    )  # fmt: skip
    expected.backward()
    loss, gradient = loss_and_gradient(LossSettings(label_smoothing=smoothing))
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), atol=1e-7)


def test_z_loss_is_the_mean_square_of_the_logarithm_of_the_sum():
    plain, found = (float(loss_and_gradient(LossSettings(z_loss=z))[0]) for z in (0.0, 0.01))
    sums = np.log(np.exp(LOGITS.astype("float64")).sum(-1))[:, :-1][LABELS[:, 1:] != -100]
    np.testing.assert_allclose(found - plain, 0.01 * np.mean(sums**2), rtol=1e-5)


def test_nothing_scored_gives_zero_and_no_nan():
    settings = LossSettings(label_smoothing=0.1, z_loss=0.1)
    loss, gradient = loss_and_gradient(settings, np.full_like(LABELS, -100))
    assert float(loss) == 0 and not np.any(gradient)
