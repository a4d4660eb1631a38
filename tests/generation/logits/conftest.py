"""Random numbers, and ways to run a processor."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import logits_processors


@pytest.fixture
def random():
    """Random numbers that do not depend on which tests ran before."""
    return np.random.RandomState(11)


@pytest.fixture(params=["eager", pytest.param("jit", marks=pytest.mark.long)])
def run(request):
    """Calls a function with numpy arguments, eagerly or compiled, and returns numpy."""

    def call(function, *args, **kwargs):
        if request.param == "jit":
            function = tf.function(function, autograph=False, jit_compile=True)
        tensors = tf.nest.map_structure(logits_processors.tensor, (args, kwargs))
        return function(*tensors[0], **tensors[1]).numpy()

    return call
