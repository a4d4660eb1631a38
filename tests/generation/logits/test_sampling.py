"""Random numbers and filters: known answers, plain twins, PyTorch, and the statistics of draws."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.support import decoding_twins as twins
from tests.support.decoding_params import params_of
from tfgpt2.generation.logits.forced import forbid
from tfgpt2.generation.logits.min_p import keep_min_p
from tfgpt2.generation.logits.penalties import penalize_repetition
from tfgpt2.generation.logits.pipeline import apply_warpers
from tfgpt2.generation.logits.random import add_gumbel_noise, gumbel, threefry
from tfgpt2.generation.logits.top_k import keep_top_k
from tfgpt2.generation.logits.top_p import keep_top_p
from tfgpt2.generation.logits.vocab_ops import argmax
from tfgpt2.nn.attention import MASK_VALUE

RANDOM = np.random.RandomState(0)
LOGITS = {
    "normal": RANDOM.standard_normal((6, 101)) * 3,
    "ties": RANDOM.randint(-3, 4, (6, 40)),
    "all equal": np.zeros((3, 16)),
    "one hot": np.where(np.arange(50) == 7, 40.0, -40.0)[None].repeat(2, 0),
    "ruled out": np.where(RANDOM.rand(5, 60) < 0.5, -1e30, RANDOM.standard_normal((5, 60))),
    "wide": RANDOM.standard_normal((2, 3)) * 1e4,
    "zeros of both signs": np.array([[0.0, -0.0, 1e-30, -1e-30, 1.0]]),
    "one token": np.array([[0.5]]),
}
LOGITS = {name: values.astype(np.float32) for name, values in LOGITS.items()}


# Known answers of the authors' Random123 library, kat_vectors, threefry2x32 with 20 rounds.
@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_known_answers(run_as, key, counter, words):
    as_words = lambda pair: tuple(tf.constant(word, tf.uint32) for word in pair)  # noqa: E731
    found = run_as(threefry)(as_words(key), as_words(counter))
    assert tuple(int(word) for word in found) == words
    assert twins.threefry(key, counter) == words


def test_threefry_equals_plain_integers(run_as):
    words = RANDOM.randint(0, 2**32, (4, 50), dtype=np.uint32)
    found = run_as(threefry)(*((tf.constant(words[i]), tf.constant(words[i + 1])) for i in (0, 2)))
    twin = [twins.threefry(*np.split(column, 2)) for column in words.T.astype(object)]
    np.testing.assert_array_equal(np.stack(found, axis=1).astype(np.int64), np.array(twin, int))


SEEDS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1]


def test_gumbel_equals_plain_numpy(run_as):
    noise = run_as(lambda seed, step: gumbel(seed, step, 7))(
        tf.constant(SEEDS, tf.int64), tf.constant(3)
    )
    np.testing.assert_allclose(noise, [twins.gumbel(seed, 3, 7) for seed in SEEDS], rtol=2e-5)


def test_gumbel_depends_on_seed_and_step_only():
    seeds = tf.constant(SEEDS, tf.int64)
    noise = gumbel(seeds, tf.constant(3), 50).numpy()
    alone = [gumbel(seeds[i : i + 1], tf.constant(3), 50)[0] for i in range(len(SEEDS))]
    # The logarithm may round differently at the end of a vector: one part in ten million.
    np.testing.assert_allclose(noise, alone, rtol=1e-6, atol=1e-7)
    assert len(np.unique(noise)) == noise.size  # rows differ
    assert not np.intersect1d(noise, gumbel(seeds, tf.constant(4), 50)).size


def test_gumbel_takes_a_step_per_row(run_as):
    seeds, steps = tf.constant(SEEDS, tf.int64), tf.range(len(SEEDS)) * 1000
    found = run_as(lambda seed, step: gumbel(seed, step, 7))(seeds, steps)
    twin = [twins.gumbel(seed, 1000 * row, 7) for row, seed in enumerate(SEEDS)]
    np.testing.assert_allclose(found, twin, rtol=2e-5)


def test_gumbel_is_finite_and_has_the_right_moments():
    noise = gumbel(tf.range(2000, dtype=tf.int64), tf.constant(0), 51).numpy()
    assert np.isfinite(noise).all()
    # Five standard errors of the mean and of the variance: a false alarm in 1e6 runs.
    error = noise.size**-0.5
    assert abs(noise.mean() - np.euler_gamma) < 5 * math.pi / 6**0.5 * error
    assert abs(noise.var() - math.pi**2 / 6) < 5 * math.pi**2 / 6 * 4.4**0.5 * error
    rows = noise[:-1] - noise.mean(), noise[1:] - noise.mean()  # neighbouring seeds
    assert abs((rows[0] * rows[1]).mean()) < 5 * math.pi**2 / 6 * error


FILTERS = {
    "top_k": (keep_top_k, twins.keep_top_k, [0, 1, 2, 5, 39, 1000, 2**30]),
    "top_p": (keep_top_p, twins.keep_top_p, [0.0, 1e-4, 0.3, 0.77, 0.999, 1.0]),
    "min_p": (keep_min_p, twins.keep_min_p, [0.0, 0.01, 0.4, 1.0]),
}


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("which", FILTERS)
def test_filters_equal_plain_numpy(run_as, which, name):
    keep, twin, settings = FILTERS[which]
    logits = np.tile(LOGITS[name], (len(settings), 1))
    per_row = np.repeat(settings, len(LOGITS[name]))
    kept = run_as(keep)(tf.constant(logits), tf.constant(per_row, tf.int32 if which == "top_k" else
                                                         tf.float32)).numpy()  # fmt: skip
    expected = [twin(row, setting) for row, setting in zip(logits, per_row, strict=True)]
    np.testing.assert_array_equal(kept, expected)
    assert kept.any(axis=1).all()


def test_argmax(run_as):
    values = np.array([[1, 3, 3], [-np.inf, -1e30, -np.inf], [5, 4, 3]], np.float32)
    assert run_as(argmax)(tf.constant(values)).numpy().tolist() == [1, 1, 0]
    nothing = run_as(argmax)(tf.constant([[np.nan, 1.0, 2.0]]))
    assert 0 <= int(nothing[0]) < 3


def test_penalty_and_forbidden_tokens(run_as):
    penalty = np.array([0.5, 1.0, 1.3, 1000.0, 0.001, 2.0], np.float32)
    logits, seen = LOGITS["normal"], RANDOM.rand(6, 101) < 0.5
    found = run_as(penalize_repetition)(
        tf.constant(logits), tf.constant(seen), tf.constant(penalty)
    )
    scaled = np.where(logits > 0, logits / penalty[:, None], logits * penalty[:, None])
    np.testing.assert_allclose(found, np.where(seen, scaled, logits), rtol=1e-6)
    rows = np.arange(6) % 2 == 0
    found = run_as(forbid)(tf.constant(logits), tf.constant(seen), tf.constant(rows))
    expected = np.where(seen & rows[:, None], np.float32(MASK_VALUE), logits)
    np.testing.assert_array_equal(found, expected)


def test_filters_and_penalty_equal_pytorch(run_as):
    torch = pytest.importorskip("torch")
    from transformers import generation as hf

    filters = {"top_k": hf.TopKLogitsWarper, "top_p": hf.TopPLogitsWarper,
               "min_p": hf.MinPLogitsWarper}  # fmt: skip
    wanted = {"top_k": [1, 3, 59], "top_p": [1e-3, 0.4, 0.95], "min_p": [0.0, 0.1, 1.0]}
    for name in ("normal", "one hot", "wide", "ruled out"):
        logits = LOGITS[name]
        rows = len(logits)
        for which, theirs in filters.items():
            settings = wanted[which]
            kept = run_as(FILTERS[which][0])(
                tf.tile(tf.constant(logits), [len(settings), 1]),
                tf.constant(
                    np.repeat(settings, rows), tf.int32 if which == "top_k" else tf.float32
                ),
            ).numpy()
            for i, setting in enumerate(settings):
                expected = theirs(setting, filter_value=-math.inf)(None, torch.tensor(logits))
                # Where many tokens tie for a place (those ruled out before), transformers keeps
                # some of them and we keep all; they have no probability in either case.
                real = logits > -1e29
                both = np.isfinite(expected.numpy()) & real
                np.testing.assert_array_equal(kept[i * rows : (i + 1) * rows] & real, both, which)
        ids = RANDOM.randint(0, logits.shape[1], (rows, 9))
        seen = np.zeros(logits.shape, bool)
        np.put_along_axis(seen, ids, True, axis=1)
        theirs = hf.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor(ids), torch.tensor(logits))
        found = run_as(penalize_repetition)(
            tf.constant(logits), tf.constant(seen), tf.fill([rows], 1.3)
        )
        np.testing.assert_allclose(found, theirs, rtol=1e-6)


def draw(logits, *, seed, step, **options):
    """Warps, adds noise and takes the largest, as the decode loop does."""
    scores = apply_warpers(logits, params_of(**options))
    return argmax(add_gumbel_noise(scores, options["temperature"], seed, step))


def settings(rows, **values):
    """Options of `draw`: one value for all rows, or one per row."""
    off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    types = {"temperature": tf.float32, "top_k": tf.int32, "top_p": tf.float32, "min_p": tf.float32}
    return {
        name: tf.constant(np.broadcast_to(values.get(name, off[name]), [rows]), types[name])
        for name in off
    }


MIXED = {
    "temperature": [0.0, 1.0, 0.7, 1e-30, 1.5, 1e6],
    "top_k": [3, 0, 5, 2, 1, 0],
    "top_p": [0.5, 0.9, 1.0, 0.3, 1.0, 0.0],
    "min_p": [0.0, 0.1, 0.0, 0.0, 0.2, 0.0],
}


def test_draws_agree_in_all_modes_and_with_the_twin(run_as):
    logits = LOGITS["normal"]
    chosen = run_as(draw)
    for step in range(12):
        seeds = [step * 1000 + row for row in range(6)]
        found = chosen(
            tf.constant(logits),
            **settings(6, **MIXED),
            seed=tf.constant(seeds, tf.int64),
            step=tf.constant(step),
        ).numpy()
        for row in range(6):
            value = {name: MIXED[name][row] for name in MIXED}
            scores = logits[row]
            if value["temperature"] > 1e-6:
                scores = twins.filtered(scores, **value) + twins.gumbel(seeds[row], step, 101)
            assert found[row] == np.argmax(scores), f"row {row} at step {step}"


def p_value(counts, probabilities):
    """Chi-square test; an even number of degrees of freedom has a closed form."""
    expected = probabilities * counts.sum()
    assert np.all(counts[expected == 0] == 0)
    counts, expected = counts[expected > 0], expected[expected > 0]
    assert len(counts) % 2 == 1 and expected.min() > 5
    half = ((counts - expected) ** 2 / expected).sum() / 2
    return math.exp(-half) * sum(half**k / math.factorial(k) for k in range(len(counts) // 2))


# The seeds are fixed, so each test is the same in every run. For another choice of seeds it would
# fail a sound sampler once in a million times.
FALSE_ALARM = 1e-6
DRAWS = 30_000


@pytest.mark.parametrize("values", [
    {}, {"temperature": 0.7}, {"temperature": 3.0}, {"top_k": 5}, {"top_p": 0.9},
    {"min_p": 0.12}, {"temperature": 1.3, "top_k": 9, "top_p": 0.95, "min_p": 0.02},
])  # fmt: skip
def test_draws_follow_the_distribution(values):
    logits = np.linspace(1.5, -1.5, 13).astype(np.float32)[np.random.RandomState(3).permutation(13)]
    found = draw(
        tf.tile(logits[None], [DRAWS, 1]),
        **settings(DRAWS, **values),
        seed=tf.range(DRAWS, dtype=tf.int64) * 7919,
        step=tf.constant(5),
    ).numpy()
    probabilities = twins.softmax(twins.filtered(logits, **values))
    if np.count_nonzero(probabilities) % 2 == 0:  # join two cells
        first, second = np.flatnonzero(probabilities)[:2]
        found = np.where(found == second, first, found)
        probabilities[first] += probabilities[second]
        probabilities[second] = 0
    counts = np.bincount(found, minlength=13)
    assert p_value(counts, probabilities) > FALSE_ALARM


@pytest.mark.parametrize("neighbour", ["step", "seed"])
def test_neighbouring_draws_are_independent(neighbour):
    logits = np.array([0.5, 0.0, -0.3, 0.2, -1.0], np.float32)
    seeds = tf.range(DRAWS, dtype=tf.int64)

    def tokens(seed, step):
        return draw(
            tf.tile(logits[None], [DRAWS, 1]), **settings(DRAWS), seed=seed, step=tf.constant(step)
        ).numpy()

    first = tokens(seeds * 2, 0)
    second = tokens(seeds * 2, 1) if neighbour == "step" else tokens(seeds * 2 + 1, 0)
    pair = np.outer(twins.softmax(logits), twins.softmax(logits)).ravel()
    assert p_value(np.bincount(first * 5 + second, minlength=25), pair) > FALSE_ALARM
