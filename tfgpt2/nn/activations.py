"""The activation functions of the MLP, by transformers' names."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from tfgpt2.errors import nearest, value_error


def gelu(x: tf.Tensor) -> tf.Tensor:
    """Gaussian error linear unit, exact: `x * Phi(x)`.

    Source: Hendrycks and Gimpel 2016, equation 1.
    """
    return tf.nn.gelu(x, approximate=False)


def gelu_new(x: tf.Tensor) -> tf.Tensor:
    """The tanh approximation of `gelu`, with which GPT-2 was trained.

    Source: Hendrycks and Gimpel 2016, section 2.
    """
    # `x * x * x` and not `x ** 3`: a power is a slow library call on the CPU.
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
    return 0.5 * x * (1 + tf.tanh(inner))


def gelu_fast(x: tf.Tensor) -> tf.Tensor:
    """`gelu_new` with rounded constants, as transformers' `gelu_fast`."""
    return 0.5 * x * (1 + tf.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x)))


def gelu_10(x: tf.Tensor) -> tf.Tensor:
    """`gelu` clipped to [-10, 10], for quantization."""
    return tf.clip_by_value(gelu(x), -10.0, 10.0)


def quick_gelu(x: tf.Tensor) -> tf.Tensor:
    """The sigmoid approximation of `gelu`: `x * sigmoid(1.702 x)`."""
    return x * tf.sigmoid(1.702 * x)


def silu(x: tf.Tensor) -> tf.Tensor:
    """`x * sigmoid(x)`, also called swish."""
    return x * tf.sigmoid(x)


def mish(x: tf.Tensor) -> tf.Tensor:
    """`x * tanh(softplus(x))`."""
    return x * tf.tanh(tf.math.softplus(x))


def relu2(x: tf.Tensor) -> tf.Tensor:
    """The square of `relu`."""
    return tf.square(tf.nn.relu(x))


def laplace(x: tf.Tensor) -> tf.Tensor:
    """Laplace activation: `0.5 * (1 + erf((x - mu) / (sigma * sqrt(2))))` with MEGA's constants.

    Source: Ma et al. 2022 (MEGA), section 3.3.
    """
    return 0.5 * (1 + tf.math.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_10": gelu_10,
    "gelu_new": gelu_new,
    "gelu_pytorch_tanh": gelu_new,
    "gelu_python_tanh": gelu_new,
    "gelu_accurate": gelu_new,
    "gelu_fast": gelu_fast,
    "quick_gelu": quick_gelu,
    "relu": tf.nn.relu,
    "relu2": relu2,
    "relu6": tf.nn.relu6,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, alpha=0.01),
    "silu": silu,
    "swish": silu,
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "mish": mish,
    "laplace": laplace,
    "linear": tf.identity,
}


def get(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns an activation by its name in `config.json`.

    Args:
        name: `"gelu_new"`, `"gelu"`, `"relu"`, `"silu"`, `"tanh"`, ...

    Returns:
        A function from a float tensor to one of the same shape and dtype.

    Raises:
        ValueError: The name is unknown.

    Source: transformers 4.57, `activations.py::ACT2FN` (the names and what they mean).

    Example:
        >>> float(get("relu")(-1.0))
        0.0
    """
    if name not in _ACTIVATIONS:
        raise value_error(
            "`activation_function` is not a known activation.",
            fix=nearest(str(name), _ACTIVATIONS),
            activation_function=name,
        )
    return _ACTIVATIONS[name]
