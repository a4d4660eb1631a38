"""Beam search over a table: a slow twin, the true optimum, and independent rows."""

import itertools
import time
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tests.support import beam_batches
from tfgpt2.generation import stopping
from tfgpt2.generation.compiled import CompiledDecoder
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.params import DecodeSpec, Prompt
from tfgpt2.generation.strategies.beam_search import BeamSearch, early_stopping_codes


def beam_params(rows, *, eos=(-1,), length_penalty=1.0, early_stopping=False, **values):
    given = {
        name: tf.constant(np.broadcast_to(values.get(name, one.off), [rows]), one.dtype)
        for name, one in REQUEST_OPTIONS.items()
    }
    early = early_stopping_codes(early_stopping)
    return beam_batches.params_of(
        given,
        tf.tile(tf.constant([list(eos)], tf.int32), [rows, 1]),
        length_penalty=tf.constant(np.broadcast_to(length_penalty, [rows]), tf.float32),
        early_stopping=tf.constant(np.broadcast_to(early, [rows]), tf.int32),
    )


# A model that is a table: the next token depends on the last one and on the number read so far.


class TableCache(NamedTuple):
    read: tf.Tensor  # int32 [B], tokens that each row has read
    history: tf.Tensor  # int32 [B, S], what they are: beams that mix their memories are found out
    column: tf.Tensor  # int32 []


class Table:
    """Logits `[time, last token, token]`; `decode_step` looks all of the past up in its cache."""

    def __init__(self, logits):
        self.logits = tf.constant(logits, tf.float32)

    def prefill(self, ids, mask, *, columns):
        read = tf.reduce_sum(mask, axis=1)
        history = tf.pad(ids, [[0, 0], [0, columns - tf.shape(ids)[1]]])
        cache = TableCache(read, history, tf.shape(ids)[1])
        return self._look(cache), cache

    def decode_step(self, ids, valid, cache, *, in_place):
        here = tf.range(tf.shape(cache.history)[1])[None] == cache.column
        history = tf.where(here, ids, cache.history)
        cache = TableCache(cache.read + 1, history, cache.column + 1)
        return self._look(cache)[:, None], cache

    def _look(self, cache):
        last = tf.gather(cache.history, cache.column - 1, axis=1)  # [B]
        before = tf.reduce_sum(cache.history, axis=1) % self.logits.shape[0]  # [B]
        return tf.gather_nd(self.logits, tf.stack([before, last], axis=1))  # [B, V]


def rows_of(found):
    """For each row the texts, best first, as (tokens, score, reason)."""
    score, tokens, _, count, reason, *_ = found
    return [
        [
            (tokens[row, k, : count[row, k]].tolist(), score[row, k].item(),
             stopping.FINISH_REASONS[reason[row, k]])
            for k in range(score.shape[1]) if count[row, k]
        ]
        for row in range(len(score))
    ]  # fmt: skip


def run(table, prompts, params, *, beams, room, run_as=lambda function: function, columns=4):
    found = beam_batches.run_search(
        BeamSearch(beams), Table(table), prompts, params, run_as, columns=columns, room=room
    )
    return rows_of(found)


def slow(table, prompt, *, beams, eos=(), max_new_tokens, min_new_tokens=0, repetition_penalty=1.0,
         length_penalty=1.0, early_stopping=False):  # fmt: skip
    """Beam search with lists: one row, the whole text looked up anew for each token."""
    running, ended = [(0.0, [])], []
    for step in range(max_new_tokens):
        found = []
        for total, text in running:
            ids = [*prompt, *text]
            scores = table[sum(ids) % len(table), ids[-1]]
            scores = scores - np.log(np.exp(scores).sum())
            scores[sorted(set(ids))] *= repetition_penalty  # log-probabilities are below 0
            banned = eos if step < min_new_tokens else ()
            found += [(total + s, [*text, t]) for t, s in enumerate(scores) if t not in banned]
        found = sorted(found, reverse=True)[: beams * (1 + max(1, len(eos)))]
        running = []
        for rank, (total, text) in enumerate(found):
            reason = "eos" if text[-1] in eos else "length"
            if reason == "length" and step + 1 < max_new_tokens:
                running.append((total, text))
            elif rank < beams:
                ended.append((text, total / len(text) ** length_penalty, reason))
        running, ended = running[:beams], sorted(ended, key=lambda x: -x[1])[:beams]
        if len(ended) == beams and running:
            longest = early_stopping == "never" and length_penalty > 0
            length = max_new_tokens if longest else step + 1
            possible = running[0][0] / length**length_penalty
            if early_stopping is True or possible <= ended[-1][1]:
                break
    return ended


def check_texts(found, expected):
    assert [one[::2] for one in found] == [one[::2] for one in expected]
    np.testing.assert_allclose([one[1] for one in found], [one[1] for one in expected], atol=1e-4)


def random_tables():
    """A table, prompts and settings of 96 rows, no two alike."""
    random = np.random.RandomState(3)
    rows, size = 96, 9
    table = random.randn(11, size, size) * 2.0
    prompts = [random.randint(0, size, random.randint(1, 5)).tolist() for _ in range(rows)]
    settings = {
        "max_new_tokens": random.randint(0, 9, rows),
        "min_new_tokens": random.choice([0, 0, 3], rows),
        "repetition_penalty": random.choice([1.0, 1.0, 1.5, 0.8], rows),
        "length_penalty": random.choice([0.0, 0.7, 1.0, 2.0, -0.5], rows),
        "early_stopping": random.choice(np.array([True, False, "never"], object), rows),
    }
    eos = [[[-1, -1], [4, -1], [4, 7]][random.randint(3)] for _ in range(rows)]
    return table, prompts, settings, eos


def test_rows_of_all_kinds_equal_the_slow_twin(run_as):
    beams = 4
    table, prompts, settings, eos = random_tables()
    params = beam_params(len(prompts), **settings)
    params = params._replace(eos_token_ids=tf.constant(eos, tf.int32))
    found = run(table, prompts, params, beams=beams, room=8, run_as=run_as)
    reasons = set()
    for row, prompt in enumerate(prompts):
        one = {name: value[row] for name, value in settings.items()}
        ends = tuple(token for token in eos[row] if token >= 0)
        expected = slow(table, prompt, beams=beams, eos=ends, **one)
        check_texts(found[row], expected)
        reasons |= {(reason, len(text) == one["max_new_tokens"]) for text, _, reason in expected}
    assert reasons >= {("eos", True), ("eos", False), ("length", True)}


@pytest.mark.parametrize(("seed", "power"), [(48, -0.5), (51, -2.0), (85, -2.0), (105, -0.5)])
def test_never_reckons_with_the_present_length_where_short_texts_are_favoured(seed, power):
    """On these tables the search would end too early if it reckoned with the longest."""
    table = np.random.RandomState(seed).randn(7, 6, 6) * 3
    options = {"length_penalty": power, "early_stopping": "never", "max_new_tokens": 8}
    (found,) = run(table, [[1]], beam_params(1, eos=[2, 4], **options), beams=2, room=8)
    check_texts(found, slow(table, [1], beams=2, eos=(2, 4), **options))


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0, 2.0])
def test_wide_beams_find_the_best_texts_there_are(power):
    random, size, most, eos = np.random.RandomState(5), 4, 4, 2
    table = random.randn(5, size, size) * 1.5
    every = []
    for text in itertools.chain(*(itertools.product(range(size), repeat=n + 1) for n in range(4))):
        whole = eos not in text[:-1] and (text[-1] == eos or len(text) == most)
        if whole:
            ids, total = [1], 0.0
            for token in text:
                scores = table[sum(ids) % 5, ids[-1]]
                total += scores[token] - np.log(np.exp(scores).sum())
                ids.append(token)
            every.append((list(text), total / len(text) ** power))
    every.sort(key=lambda one: -one[1])
    params = beam_params(
        1, eos=[eos], max_new_tokens=most, length_penalty=power, early_stopping="never"
    )
    (found,) = run(table, [[1]], params, beams=size ** (most - 1), room=most)
    assert [text for text, _, _ in found[:20]] == [text for text, _ in every[:20]]
    np.testing.assert_allclose([x[1] for x in found[:20]], [x[1] for x in every[:20]], atol=1e-5)


@pytest.mark.parametrize(("eos", "most"), [([], 1), ([0, 1, 2], 3), ([0, 2], 3)])
@pytest.mark.parametrize("beams", [1, 2, 4, 9])
def test_few_texts_leave_places_empty(eos, most, beams):
    """With few ways to go on, ended texts stay ended and no text is found twice."""
    table = np.random.RandomState(0).randn(5, 3, 3)
    params = beam_params(1, eos=eos or [-1], max_new_tokens=most)
    (found,) = run(table, [[1]], params, beams=beams, room=4)
    check_texts(found, slow(table, [1], beams=beams, eos=tuple(eos), max_new_tokens=most))


def test_a_row_depends_on_nothing_but_itself():
    table, prompts, settings, eos = random_tables()
    settings = settings | {"temperature": np.arange(96) % 3 / 2, "seed": np.arange(96) * 2**40}

    def some(rows, **shape):
        params = beam_params(len(rows), **{k: v[rows] for k, v in settings.items()})
        ends = tf.constant([eos[row] for row in rows], tf.int32)
        params = params._replace(eos_token_ids=ends)
        return run(table, [prompts[row] for row in rows], params, beams=3, **shape)

    together = some(list(range(96)), room=8)
    order = np.random.RandomState(0).permutation(96)[:20].tolist()
    for row, found in zip(order, some(order, room=11, columns=7), strict=True):
        check_texts(found, together[row])
    for row in order[:4]:
        check_texts(some([row], room=8)[0], together[row])


def test_beam_sampling_draws_without_replacement():
    """Chi-square over the pairs of two beams; the bound has a false-alarm rate of 1e-6.

    One step, so the pairs are two draws from the softmax without replacement.
    """
    rows, size = 20000, 5
    logits = np.array([0.0, 1.0, -1.0, 0.5, -0.3])
    table = np.tile(logits, [1, size, 1])
    params = beam_params(rows, max_new_tokens=1, temperature=0.8, seed=np.arange(rows))
    found = run(table, [[1]] * rows, params, beams=2, room=1)
    chance = np.exp(logits / 0.8) / np.exp(logits / 0.8).sum()
    statistic = 0.0
    for pair in itertools.combinations(range(size), 2):
        seen = sum({text[0] for text, _, _ in texts} == set(pair) for texts in found)
        one, two = chance[list(pair)]
        expected = rows * one * two * (1 / (1 - one) + 1 / (1 - two))
        statistic += (seen - expected) ** 2 / expected
    assert statistic < 45.1  # the 1 - 1e-6 quantile of chi-square with 9 degrees of freedom


@pytest.mark.long
def test_beam_samples_are_the_same_in_every_mode(run_as):
    table = np.random.RandomState(7).randn(11, 9, 9)
    params = beam_params(
        6, eos=[4], max_new_tokens=6, temperature=[0.0, 1.0, 1.0, 0.5, 2.0, 1.0],
        top_k=[0, 0, 1, 5, 0, 0], top_p=[1.0, 1.0, 1.0, 1.0, 0.7, 1.0],
        min_p=[0.0, 0.0, 0.0, 0.0, 0.0, 0.2], seed=[1, 1, 2, 3, 4, 5],
    )  # fmt: skip
    prompts = [[1]] * 2 + [[2, 3]] * 4
    found = run(table, prompts, params, beams=3, room=6, run_as=run_as)
    for row, expected in enumerate(run(table, prompts, params, beams=3, room=6)):
        check_texts(found[row], expected)
    check_texts(found[0], slow(table, [1], beams=3, eos=(4,), max_new_tokens=6))
    assert found[1] != found[0]
    # top_k=1 still leaves two tokens, so that a beam can go on when the best one ends.
    ids = [2, 3]
    best = set(np.argsort(table[sum(ids) % 11, ids[-1]])[-2:])
    assert {text[0] for text, _, _ in found[2]} <= best


@pytest.mark.long
def test_no_setting_asks_for_another_program():
    """Once compiled, other values take no more than a fifth of the first call's time."""
    decoder, rows = CompiledDecoder(Table(np.zeros([1, 9, 9])), jit_compile=True), 2
    prompt = Prompt(*beam_batches.right_aligned([[1, 2], [3]], 4))
    times = []
    for power, early, most, heat in ((1.0, True, 4, 0.0), (2.0, False, 3, 1.0),
                                     (-0.5, "never", 2, 0.5)):  # fmt: skip
        params = beam_params(rows, eos=[4], length_penalty=power, early_stopping=early,
                             max_new_tokens=most, temperature=heat, top_k=most)  # fmt: skip
        begin = time.perf_counter()
        decoder.run(DecodeSpec(BeamSearch(2)), prompt, params, tf.zeros([rows, 4], tf.int32))
        times.append(time.perf_counter() - begin)
    assert max(times[1:]) < times[0] / 5
    (program,) = decoder._programs.values()
    assert program.experimental_get_tracing_count() == 1
