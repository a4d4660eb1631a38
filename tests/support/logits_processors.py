"""Logits and settings of the tests of processors, and PyTorch's processors row by row."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.decoding_params import params_of
from tfgpt2.generation.logits.pipeline import apply_warpers

torch = pytest.importorskip("torch")

RANDOM = np.random.RandomState(7)
ROWS, SIZE = 6, 53
LOGITS = (RANDOM.standard_normal((ROWS, SIZE)) * 3).astype(np.float32)
ALL = np.ones(ROWS, bool)
SOME = np.array([True, False, True, True, False, False])
LISTS = np.array([[3, 7, -1], [-1, -1, -1], [52, 0, 52], [1, 1, -1], [9, -1, 4], [5, 6, 7]])
COUNTS = RANDOM.randint(0, 4, (ROWS, SIZE)) * (RANDOM.rand(ROWS, SIZE) < 0.3)


def tensor(value):
    """Python and 64-bit numbers as the types that the functions take."""
    if isinstance(value, tf.Tensor):
        return value
    value = np.asarray(value)
    kinds = {"f": tf.float32, "i": tf.int32, "b": tf.bool}
    return tf.constant(value, kinds[value.dtype.kind])


def theirs(make, logits, tokens=None, lengths=None):
    """Runs a processor of PyTorch for each row: `make(row)`, None where the row has it off."""
    out = []
    for row, scores in enumerate(logits):
        given = np.zeros([1, 1], int) if tokens is None else tokens[row][None]
        if lengths is not None:
            given = np.zeros([1, lengths[row]], int)
        processor = make(row)
        scores = torch.tensor(scores[None])
        out.append(processor(torch.tensor(given), scores) if processor else scores)
    return torch.cat(out).numpy()


def assert_same(found, expected, **tolerance):
    """Compares logits; minus infinity there is `MASK_VALUE` here, and everything here is finite."""
    assert found.dtype == np.float32 and np.isfinite(found).all()
    out = np.isneginf(expected)
    np.testing.assert_array_equal(found < -1e29, out)
    tolerance = {"rtol": 1e-5, "atol": 1e-5, **tolerance}
    np.testing.assert_allclose(np.where(out, 0, found), np.where(out, 0, expected), **tolerance)


def kept(found, expected):
    np.testing.assert_array_equal(found, ~np.isneginf(expected))


WARPERS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
SETTINGS = (0.7, 12, 0.9, 0.1, 0.8, 0.06, 0.1)


def warp(scores, settings, least=1):
    """`apply_warpers` with the settings of `WARPERS`."""
    return apply_warpers(scores, params_of(**dict(zip(WARPERS, settings, strict=True))), least)
