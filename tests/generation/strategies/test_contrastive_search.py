"""Contrastive search: PyTorch's tokens, a slow twin, and rows that depend on nothing else."""

import json
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tests.support import beam_batches, contrastive_cases
from tests.support.paths import GOLDEN as GOLDEN_FILES
from tfgpt2.generation import stopping
from tfgpt2.generation.params import DecodeSpec
from tfgpt2.generation.strategies.contrastive_search import ContrastiveSearch

CASES = contrastive_cases.CASES
GOLDEN = json.loads(
    (GOLDEN_FILES / "contrastive.json").read_text()
)["found"]  # fmt: skip
TOLERANCE = 1e-4  # of log-probabilities
WIDE = 6  # candidates of the program; rows that ask for fewer are masked


def params_of(options):
    """transformers' options of each row as parameters of contrastive search."""
    params = beam_batches.row_params(options)
    alpha = tf.constant([one["penalty_alpha"] for one in options], tf.float32)
    return params._replace(options=params.options | {"penalty_alpha": alpha})


def search(model, prompts, options, run_as, *, candidates=WIDE, functions=(), **shape):
    """Runs contrastive search with transformers' options of each row: numpy results."""
    strategy = ContrastiveSearch(candidates)
    return beam_batches.run_search(
        strategy, model, prompts, params_of(options), run_as,
        spec=DecodeSpec(strategy, logits_processors=functions), **shape,
    )  # fmt: skip


def rows_of(deep):
    """A row for each prompt of the cases that share a model."""
    rows = []
    for name in CASES:
        if (name == "deep") == deep:
            ids, mask = contrastive_cases.prompts(name)
            rows += [(name, i, ids[i][mask[i] > 0].tolist()) for i in range(len(ids))]
    return rows


def check_golden(build, rows, run_as, **shape):
    case = CASES[rows[0][0]]
    model = build(seed=case.seed, **case.config)
    prompts, options = [prompt for _, _, prompt in rows], [CASES[name].options for name, *_ in rows]
    found = search(model, prompts, options, run_as, **shape)
    for row, (name, i, _) in enumerate(rows):
        count, expected = found.count[row], GOLDEN[name]["tokens"][i]
        rest = len(expected) - count
        text = found.tokens[row, :count].tolist() + [contrastive_cases.PAD] * rest
        assert text == expected, (name, i)
        logprobs = found.logprobs[row, :count]
        np.testing.assert_allclose(logprobs, GOLDEN[name]["logprobs"][i][:count], atol=TOLERANCE)
        assert not found.tokens[row, count:].any() and not found.logprobs[row, count:].any()
        eos = CASES[name].options["eos_token_id"] or []
        ended = text[count - 1] in (eos if isinstance(eos, list) else [eos])
        assert found.reason[row] == (stopping.EOS if ended else stopping.LENGTH)
    return found


@pytest.mark.parametrize(("deep", "run_as"), [
    (False, beam_batches.jit), pytest.param(True, beam_batches.graph, marks=pytest.mark.long),
])  # fmt: skip
def test_tokens_equal_the_golden_file(build, deep, run_as):
    """All settings are rows of one batch, in a program compiled once."""
    found = check_golden(build, rows_of(deep), run_as)
    assert deep or {stopping.EOS, stopping.LENGTH} == set(found.reason)


@pytest.mark.long
def test_every_batch_gives_the_same(build):
    """Few rows, in another order, with other columns and room."""
    check_golden(build, rows_of(False)[::5][::-1], beam_batches.graph, columns=11, room=19)


# A model that is a table: hidden states depend on the last token and the sum of all before it.


class TableCache(NamedTuple):
    history: tf.Tensor  # int32 [B, S], what each row has read
    column: tf.Tensor  # int32 []


class Table:
    """Hidden states `[time, token, D]`; `decode_hidden` finds all of the past in its cache."""

    def __init__(self, hidden, scores):
        self.hidden, self.scores = tf.constant(hidden, tf.float32), tf.constant(scores, tf.float32)

    def prefill_hidden(self, ids, mask, *, columns):
        history = tf.pad(ids * mask, [[0, 0], [0, columns - tf.shape(ids)[1]]])
        cache = TableCache(history, tf.shape(ids)[1])
        return self._look(tf.cumsum(ids * mask, axis=1), ids), cache

    def decode_hidden(self, ids, valid, cache, *, in_place):
        here = tf.range(tf.shape(cache.history)[1])[None] == cache.column
        history = tf.where(here, ids, cache.history)
        return self._look(tf.reduce_sum(history, axis=1, keepdims=True), ids), TableCache(
            history, cache.column + 1
        )

    def _look(self, total, last):
        time = total % self.hidden.shape[0]
        return tf.gather_nd(self.hidden, tf.stack([time, last], axis=-1))

    def score(self, hidden):
        return tf.matmul(hidden, self.scores)


def slow(hidden, scores, prompt, *, top_k, penalty_alpha, max_new_tokens, eos_token_id=(),
         min_new_tokens=0, repetition_penalty=1.0):  # fmt: skip
    """Contrastive search with lists: one row, the whole text looked up anew for each candidate."""

    def vector(ids):
        return hidden[sum(ids) % len(hidden), ids[-1]]

    ids, start = list(prompt), len(prompt)
    while len(ids) - start < max_new_tokens:
        logits = vector(ids) @ scores
        for token in set(ids):
            logits[token] *= repetition_penalty ** (1 if logits[token] < 0 else -1)
        if len(ids) - start < min_new_tokens:
            logits[list(eos_token_id)] = -np.inf
        chance = np.exp(logits - logits.max())
        chance /= chance.sum()
        said = [vector(ids[: i + 1]) for i in range(len(ids))]
        worth = {}
        for token in np.argsort(-logits)[:top_k]:
            new = vector([*ids, token])
            cosines = [old @ new / np.linalg.norm(old) / np.linalg.norm(new) for old in said]
            worth[int(token)] = (1 - penalty_alpha) * chance[token] - penalty_alpha * max(cosines)
        ids.append(max(worth, key=worth.get))
        if ids[-1] in eos_token_id:
            break
    return ids[start:]


def random_rows():
    random = np.random.RandomState(3)
    rows, size = 60, 9
    hidden, scores = random.randn(11, size, 5), random.randn(5, size)
    prompts = [random.randint(1, size, random.randint(1, 6)).tolist() for _ in range(rows)]
    options = [
        {"max_new_tokens": int(random.randint(0, 9)), "top_k": int(random.randint(1, 7)),
         "penalty_alpha": float(random.choice([0.0, 0.2, 0.5, 0.8, 1.0])),
         "min_new_tokens": int(random.choice([0, 0, 3])),
         "repetition_penalty": float(random.choice([1.0, 1.5, 0.8])),
         "eos_token_id": [[], [4], [4, 7]][random.randint(3)]}
        for _ in range(rows)
    ]  # fmt: skip
    return hidden, scores, prompts, options


@pytest.mark.parametrize("run_as", [beam_batches.eager, beam_batches.jit])
def test_rows_of_all_kinds_equal_the_slow_twin(run_as):
    hidden, scores, prompts, options = random_rows()
    found = search(Table(hidden, scores), prompts, options, run_as, room=8)
    for row, prompt in enumerate(prompts):
        text = found.tokens[row, : found.count[row]].tolist()
        assert text == slow(hidden, scores, prompt, **options[row]), row
    assert {stopping.EOS, stopping.LENGTH} == set(found.reason)


@pytest.mark.long
def test_one_candidate_and_no_penalty_are_greedy(model):
    options = {"max_new_tokens": 8, "eos_token_id": None, "penalty_alpha": 0.6, "top_k": 1}
    prompts = [[1, 2, 3], [4, 5]]
    ways = [options, options | {"top_k": 5, "penalty_alpha": 0.0}]
    padded = beam_batches.right_aligned(prompts)
    greedy = model.generate(padded[0], attention_mask=padded[1], max_new_tokens=8,
                            eos_token_id=None, jit_compile=False)[:, 3:]  # fmt: skip
    for way in ways:
        found = search(model, prompts, [way] * 2, beam_batches.graph)
        np.testing.assert_array_equal(found.tokens, greedy)


def test_stop_strings_end_a_row():
    hidden, scores, prompts, options = random_rows()
    options = [one | {"max_new_tokens": 8, "eos_token_id": []} for one in options[:6]]
    plain = search(Table(hidden, scores), prompts[:6], options, beam_batches.graph)
    letters = [bytes([97 + token]) for token in range(9)]
    texts = [bytes(97 + token for token in row) for row in plain.tokens.tolist()]
    stops = [text[2:4] for text in texts]
    params = params_of(options)._replace(
        stop_strings=stopping.encode_stop_strings(tf.constant([[stop] for stop in stops]))
    )
    found = beam_batches.run_search(
        ContrastiveSearch(WIDE), Table(hidden, scores), prompts[:6], params, beam_batches.eager,
        token_bytes=stopping.token_bytes(letters),
    )  # fmt: skip
    cut = [text.index(stop) for text, stop in zip(texts, stops, strict=True)]
    assert found.cut.tolist() == cut
    assert found.count.tolist() == [place + 2 for place in cut]
    assert set(found.reason) == {stopping.STOP}


def test_a_users_processor_sees_the_sequence():
    hidden, scores, prompts, options = random_rows()
    options = [one | {"max_new_tokens": 8, "eos_token_id": []} for one in options[:6]]

    def climb(ids, mask, scores):
        """Only tokens above the last one, as long as there are any."""
        last = tf.reduce_max(tf.where(mask > 0, tf.range(tf.shape(ids)[1]), 0), axis=1)
        last = tf.gather(ids, last, batch_dims=1)
        return tf.where(tf.range(9)[None] > last[:, None] % 8, scores, -1e30)

    found = search(
        Table(hidden, scores), prompts[:6], options, beam_batches.graph, functions=(climb,)
    )
    for prompt, text in zip(prompts, found.tokens.tolist(), strict=False):
        whole = [prompt[-1], *text]
        assert all(new > old % 8 for old, new in zip(whole, whole[1:], strict=False))
