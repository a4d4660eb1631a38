"""Options of `model.generate` where a batch, a bucket or chance could change what they do."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import decoding_twins as twins

LENGTHS = (5, 1, 9, 3)
RANDOM = np.random.RandomState(12)
PROMPTS = [RANDOM.randint(0, 23, length).tolist() for length in LENGTHS]
# One value for each row, all different.
PER_ROW = {
    "max_new_tokens": [14, 9, 12, 16],
    "min_new_tokens": [0, 6, 0, 12],
    "repetition_penalty": [1.0, 1.4, 0.7, 1.2],
    "presence_penalty": [0.0, 1.0, -0.5, 2.0],
    "frequency_penalty": [0.5, 0.0, 1.0, -0.5],
    "no_repeat_ngram_size": [0, 2, 3, 1],
    "bad_words_ids": [[[3]], [[5], [1, 2]], [[7]], [[9, 9], [4]]],
    "suppress_tokens": [[1], [2, 3], [4], [5, 6]],
    "sequence_bias": [{(3,): 2.0}, {(1, 2): 3.0}, {(8,): -5.0}, {(2,): 1.0}],
    "exponential_decay_length_penalty": [(3, 1.1), (1, 1.5), (9, 2.0), (4, 1.3)],
}
OTHER = {
    "guidance": {"guidance_scale": [1.0, 2.0, 1.5, 3.0], "max_new_tokens": 8},
    "sampled": {
        "do_sample": True, "seed": [3, 5, 7, 2**40], "temperature": [0.5, 1.0, 0.0, 1.3],
        "typical_p": [0.9, 0.5, 1.0, 0.8], "eta_cutoff": [0.01, 0.0, 0.2, 0.001],
        "max_new_tokens": 10,
    },
    "beams": {"num_beams": 3, "length_penalty": [1.0, 0.0, 2.0, -1.0], "max_new_tokens": 8,
              "no_repeat_ngram_size": [0, 2, 3, 1]},
    "contrastive": {"penalty_alpha": [0.6, 0.2, 0.9, 0.4], "top_k": 4, "max_new_tokens": 8},
}  # fmt: skip
CASES = {"everything": PER_ROW | {"eos_token_id": [4, 9]}} | OTHER


def generated(model, rows, options, padding=0, **more):
    """New tokens of some rows, each with its own values."""
    own = {}
    for name, value in options.items():
        each = isinstance(value, list) and len(value) == 4
        own[name] = [value[row] for row in rows] if each else value
    width = max(LENGTHS[row] for row in rows) + padding
    ids = np.array([[0] * (width - LENGTHS[row]) + PROMPTS[row] for row in rows])
    mask = np.array([[0] * (width - LENGTHS[row]) + [1] * LENGTHS[row] for row in rows])
    off = {"eos_token_id": None, "pad_token_id": 0, "jit_compile": False}
    out = model.generate(ids, attention_mask=mask, return_dict_in_generate=True,
                         **(off | own | more))  # fmt: skip
    new = out.sequences.numpy()[:, width:]
    return [row[:count].tolist() for row, count in zip(new, out.num_tokens.numpy(), strict=True)]


@pytest.mark.long  # a quick one: test_mixed_rows_equal_the_slow_twin
@pytest.mark.parametrize("name", ["everything", *OTHER])
def test_a_row_is_as_if_alone(model, name):
    """Other neighbours, other places and other buckets change nothing."""
    options = CASES[name]
    together = generated(model, [0, 1, 2, 3], options)
    assert len({tuple(row) for row in together}) == 4
    for row in range(4):
        assert generated(model, [row], options) == [together[row]], row
    order = [3, 1, 0, 2, 1]
    expected = [together[row] for row in order]
    assert generated(model, order, options, padding=13) == expected


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_compiled_rows_are_the_same(model, name):
    plain = generated(model, [0, 1, 2, 3], CASES[name])
    assert generated(model, [0, 1, 2, 3], CASES[name], jit_compile=True) == plain


DRAWS, PROMPT = 6000, [3, 8, 1]
SETTINGS = {"temperature": 0.9, "top_k": 6, "top_p": 0.95}


def chances(model, ids):
    """The exact distribution of the next token, after warping: float64 `[V]`."""
    logits = model([ids], use_cache=False).logits[0, -1].numpy()
    scores = twins.filtered(logits, **SETTINGS).astype(np.float64)
    exp = np.exp(scores - scores.max())
    return exp / exp.sum()


def too_large(counts, expected):
    """Whether chi-square exceeds what chance exceeds once in a million times.

    The limit is Wilson and Hilferty's (1931): the cube root of chi-square is nearly normal.
    """
    likely = expected >= 5  # the others share a cell, as the test asks
    cells = np.append(counts[likely], counts[~likely].sum())
    sizes = np.append(expected[likely], expected[~likely].sum())
    cells, sizes = cells[sizes > 0], sizes[sizes > 0]
    statistic = ((cells - sizes) ** 2 / sizes).sum()
    spread = 2 / (9 * (len(cells) - 1))
    return statistic > (len(cells) - 1) * (1 - spread + 4.7534 * spread**0.5) ** 3


@pytest.mark.parametrize("how", [
    "draft", *(pytest.param(how, marks=pytest.mark.long) for how in ("plain", "lookup"))
])  # fmt: skip
@pytest.mark.long
def test_draws_have_the_models_distribution(build, model, how):
    """Two tokens of 6000 rows against the exact distribution of pairs.

    The seeds are fixed, so the result never changes; for new ones a false alarm comes once in a
    million runs. A draft model of other weights proposes the second token and the one after it.
    """
    draft_options = {
        "plain": {},
        "draft": {"assistant_model": build(seed=17), "num_assistant_tokens": 2},
        "lookup": {"prompt_lookup_num_tokens": 2},
    }[how]
    found = model.generate(
        np.tile(PROMPT, [DRAWS, 1]), do_sample=True, seed=11, max_new_tokens=3, eos_token_id=None,
        jit_compile=False, **SETTINGS, **draft_options,
    ).numpy()[:, 3:5]  # fmt: skip
    first = chances(model, PROMPT)
    second = np.stack([chances(model, [*PROMPT, token]) for token in range(23)])
    expected = DRAWS * first[:, None] * second  # [V, V]
    counts = np.zeros([23, 23])
    np.add.at(counts, tuple(found.T), 1)
    assert not counts[expected == 0].any()  # nothing that the filters rule out
    assert not too_large(counts.ravel(), expected.ravel())
    # The test can fail: half as much heat again is noticed in the first token alone.
    heated = first ** (1 / 1.5) / (first ** (1 / 1.5)).sum()
    assert too_large(counts.sum(axis=1), DRAWS * heated)


@pytest.mark.long
def test_users_own_functions(model):
    """A processor and a criterion become part of the program, rows by rows."""

    def odd(ids, mask, scores):
        even = tf.range(tf.shape(scores)[1]) % 2 == 0
        return tf.where(even[None], -1e30, scores)

    def seven(ids, mask):
        return tf.reduce_sum(mask, axis=1) >= 7

    for options in ({}, {"num_beams": 2}):
        rows = generated(model, [0, 1, 2], {"max_new_tokens": 9} | options,
                         logits_processor=odd, stopping_criteria=[seven])  # fmt: skip
        assert all(token % 2 for row in rows for token in row)
        assert [len(row) for row in rows] == [2, 6, 1]


@pytest.mark.long
def test_a_streamer_gets_every_token(model):
    class Streamer:
        def __init__(self):
            self.parts, self.ended = [], 0

        def put(self, ids):
            self.parts.append(np.asarray(ids).ravel().tolist())

        def end(self):
            self.ended += 1

    streamer = Streamer()
    found = model.generate([PROMPTS[0]], streamer=streamer, max_new_tokens=6, eos_token_id=None,
                           jit_compile=False).numpy()[0]  # fmt: skip
    assert streamer.ended == 1 and streamer.parts[0] == PROMPTS[0]
    assert [one for part in streamer.parts for one in part] == found.tolist()
    assert all(len(part) == 1 for part in streamer.parts[1:])
    with pytest.raises(ValueError, match="A streamer gets one sequence"):
        model.generate([PROMPTS[0]] * 2, streamer=streamer)


@pytest.mark.long
def test_time_runs_out(model):
    out = model.generate([PROMPTS[0]] * 2, max_new_tokens=40, eos_token_id=None, max_time=1e-6,
                         jit_compile=False, return_dict_in_generate=True)  # fmt: skip
    assert out.finish_reason == ["time"] * 2 and 1 <= int(out.num_tokens[0]) < 40
