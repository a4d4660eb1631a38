"""`tfgpt2 version`."""

from __future__ import annotations

from tfgpt2.quiet import quiet
from tfgpt2.version import __version__


def version() -> None:
    """Print the versions of tfgpt2, TensorFlow and Keras."""
    with quiet():  # TensorFlow is imported here
        import keras
        import tensorflow as tf

    print(f"tfgpt2 {__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}")
