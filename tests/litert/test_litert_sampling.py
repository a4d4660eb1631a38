"""The choice of tokens in NumPy against the one in TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2.generation.logits import random
from tfgpt2.generation.logits.penalties import penalize_repetition
from tfgpt2.generation.logits.pipeline import apply_warpers
from tfgpt2.generation.logits.vocab_ops import RULED_OUT, mark_ids
from tfgpt2.generation.params import SamplingParams
from tfgpt2.litert import sampling
from tfgpt2.nn.attention import MASK_VALUE


def test_constants_are_those_of_the_graph():
    assert sampling._MASK_VALUE == np.float32(MASK_VALUE)
    assert sampling._RULED_OUT == np.float32(RULED_OUT)


@pytest.mark.parametrize("size", [1, 10, 257])
def test_noise_is_that_of_the_graph(size):
    for seed, step in ((0, 0), (5, 3), (2**62 + 12345, 1000)):
        live = random.gumbel(tf.constant([seed], tf.int64), tf.constant([step]), size)[0].numpy()
        found = sampling.gumbel(seed, step, np.arange(size), size)
        np.testing.assert_allclose(found, live, rtol=1e-5, atol=1e-6)
        some = np.arange(0, size, 3)
        assert np.array_equal(sampling.gumbel(seed, step, some, size), found[some])


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"top_k": 5},
        {"top_k": 1000},
        {"top_p": 0.0},
        {"top_p": 0.37},
        {"top_p": 0.9999},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"temperature": 1e-7},
        {"temperature": 3.0, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
    ],
    ids=str,
)
def test_filters_keep_what_the_graph_keeps(values):
    settings = {"temperature": 0.9, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | values
    generator = np.random.default_rng(1)
    for _ in range(4):
        scores = generator.normal(0, 3, 200).astype(np.float32)
        scores[generator.integers(0, 200, 30)] = np.round(scores[:30])  # ties
        types = {"top_k": np.int32}
        numbers = {n: types.get(n, np.float32)(value) for n, value in settings.items()}
        params = SamplingParams((), (), (), {n: tf.constant([x]) for n, x in numbers.items()})
        live = apply_warpers(tf.constant(scores[None]), params)[0].numpy()
        kept, ids = sampling.warp(scores, **numbers)
        assert np.array_equal(ids, np.flatnonzero(live > MASK_VALUE / 2))
        np.testing.assert_allclose(kept, live[ids], rtol=1e-6)


def test_no_token_beyond_the_range_of_the_noise_is_lost():
    """The bits of the largest and the smallest noise."""
    for bits in (0, 2**23 - 1):
        uniform = (np.float32(bits) + np.float32(0.5)) * np.float32(2.0**-23)
        assert -2.9 < -np.log(-np.log(uniform)) < 16.7
    scores = np.linspace(0, 60, 400).astype(np.float32)
    settings = {"top_k": 0, "top_p": np.float32(1), "min_p": np.float32(0), "seed": 4}
    drawn = set()
    for step in range(300):
        noisy = scores / np.float32(5) + sampling.gumbel(4, step, np.arange(400), 400)
        token = sampling.choose_token(
            scores, seen=np.zeros(0, int), forbidden=np.zeros(0, int), step=step,
            temperature=np.float32(5), repetition_penalty=np.float32(1), **settings,
        )  # fmt: skip
        assert token == np.argmax(noisy)
        drawn.add(token)
    assert min(drawn) < 330


@pytest.mark.parametrize("size", [5, 3000, 20000])
def test_the_edge_of_the_nucleus_is_that_of_a_full_sort(size):
    generator = np.random.default_rng(size)
    for spread in (0.1, 3.0):  # all tokens are needed, or few
        scores = generator.normal(0, spread, size).astype(np.float32)
        for top_p in np.array([0, 0.5, 0.999, 0.9999999], np.float32):
            order = np.sort(scores)[::-1]
            mass = np.cumsum(np.exp(order - order[0]), dtype=np.float64)
            place = np.searchsorted(mass, np.float64(top_p) * mass[-1])
            assert sampling._nucleus_edge(scores, top_p) == order[place]


def test_penalties_are_those_of_the_graph():
    scores, seen = np.array([2.0, -1.0, 0.0, 4.0], np.float32), np.array([0, 1], np.int32)
    live = penalize_repetition(
        tf.constant(scores[None]), mark_ids(tf.constant(seen[None]), 4), tf.constant([1.7])
    )
    sampling.penalize_repetition(scores, seen, np.float32(1.7))
    assert np.array_equal(scores, live[0].numpy())


def test_a_row_without_a_token_left_has_none():
    settings = {"top_k": 0, "top_p": np.float32(1), "min_p": np.float32(0)}
    for temperature in (0, 1):
        token = sampling.choose_token(
            np.zeros(3, np.float32), seen=np.array([0]), forbidden=np.arange(3), step=0, seed=1,
            temperature=np.float32(temperature), repetition_penalty=np.float32(1), **settings,
        )  # fmt: skip
        assert token is None
