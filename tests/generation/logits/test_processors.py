"""Processors against PyTorch transformers' classes of the same name, row by row."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.support.decoding_params import context_of
from tests.support.logits_processors import (
    ALL,
    COUNTS,
    LISTS,
    LOGITS,
    ROWS,
    SIZE,
    SOME,
    WARPERS,
    assert_same,
    tensor,
    theirs,
    warp,
)
from tfgpt2.generation.guidance import guided_logits
from tfgpt2.generation.logits.bias import (
    SequenceBiases,
    add_sequence_bias,
    bad_word_biases,
    lay_out_biases,
)
from tfgpt2.generation.logits.forced import (
    BeginSuppressTokens,
    SuppressTokens,
    forbid,
    force_token,
)
from tfgpt2.generation.logits.length import decay_length
from tfgpt2.generation.logits.ngrams import forbid_repeated_ngrams
from tfgpt2.generation.logits.penalties import (
    EncoderRepetitionPenalty,
    hamming_diversity,
    penalize_frequency,
    penalize_presence,
    penalize_repetition,
)
from tfgpt2.generation.logits.validity import RemoveInvalidValues, RenormalizeLogits
from tfgpt2.nn.attention import MASK_VALUE

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from transformers.generation import logits_process as hf  # noqa: E402

# --- penalties ---


def test_encoder_repetition(run, random):
    prompt = random.randint(0, SIZE, (ROWS, 9))
    penalty = np.array([0.5, 1.0, 1.3, 100.0, 0.01, 2.0])
    found = run(
        lambda scores, ids, value: EncoderRepetitionPenalty()(scores, value, context_of(ids)),
        LOGITS, prompt, penalty,
    )  # fmt: skip
    expected = theirs(
        lambda row: hf.EncoderRepetitionPenaltyLogitsProcessor(
            float(penalty[row]), torch.tensor(prompt[row : row + 1])
        ),
        LOGITS,
    )
    assert_same(found, expected)


def test_presence_and_frequency(run):
    """transformers has neither; the formula is that of OpenAI's reference, term by term."""
    presence = np.array([0.0, 1.5, -2.0, 0.3, 0.0, 2.0])
    frequency = np.array([0.0, 0.0, 0.7, -0.1, 2.0, 1.0])
    expected = LOGITS - COUNTS * frequency[:, None] - (COUNTS > 0) * presence[:, None]
    found = run(penalize_presence, LOGITS, COUNTS, presence)
    assert_same(run(penalize_frequency, found, COUNTS, frequency), expected)


def test_hamming_diversity(run):
    """transformers 5 dropped the class; 4.57: `scores -= penalty * bincount(previous tokens)`."""
    penalty = np.array([0.0, 0.5, 1.0, 2.0, 0.3, 7.0])
    expected = LOGITS.copy()
    for row, chosen in enumerate(LISTS):
        expected[row] -= penalty[row] * np.bincount(chosen[chosen >= 0], minlength=SIZE)
    assert_same(run(hamming_diversity, LOGITS, LISTS, penalty), expected)


def test_decay_length(run):
    start, factor = np.array([3, 3, 0, 5, 2, 0]), np.array([1.5, 0.9, 1.01, 2.0, 1.0, 1.1])
    length = np.array([9, 8, 40, 5, 30, 1])
    logits = LOGITS.copy()
    logits[0, 3] = MASK_VALUE  # a forbidden end token, as before `min_new_tokens`
    found = run(decay_length, logits, LISTS, start, factor, length)

    def make(row):
        ends = LISTS[row][LISTS[row] >= 0].tolist()
        decay = (int(start[row]) - 1, float(factor[row]))
        return hf.ExponentialDecayLengthPenalty(decay, ends, 1) if ends else None

    expected = theirs(make, np.where(logits < -1e29, -np.inf, logits), lengths=length)
    assert_same(found, expected, rtol=2e-5)
    assert (found[2] != logits[2]).sum() == 2


def test_decay_length_stays_finite(run):
    logits = np.array([[0.0, 5.0, -5.0]] * 2, np.float32)
    ends, factor = np.array([[0, 1, 2]] * 2), np.array([100.0, 1e-3])
    start, length = np.zeros(2, int), np.full(2, 1000)
    found = run(decay_length, logits, ends, start, factor, length)
    assert np.isfinite(found).all()
    assert found[0, 0] == 0 and found[0, 1:].min() > 1e29
    np.testing.assert_allclose(found[1], [0, 0, -10])


# --- tokens ruled out and forced ---


def begin_suppress(scores, ids, first):
    """`BeginSuppressTokens` where bool `[R]` rows are at their first token."""
    context = context_of(tf.zeros_like(ids), num_new_tokens=tf.where(first, 0, 1))
    return BeginSuppressTokens()(scores, ids, context)


def test_suppress(run):
    listed = [row[row >= 0].tolist() for row in LISTS]
    expected = theirs(lambda row: hf.SuppressTokensLogitsProcessor(listed[row])
                      if listed[row] else None, LOGITS)  # fmt: skip
    assert_same(
        run(lambda scores, ids: SuppressTokens()(scores, ids, None), LOGITS, LISTS),
        expected,
        rtol=0,
    )
    length = np.where(SOME, 4, 5)
    expected = theirs(lambda row: hf.SuppressTokensAtBeginLogitsProcessor(listed[row], 4)
                      if listed[row] else None, LOGITS, lengths=length)  # fmt: skip
    assert_same(run(begin_suppress, LOGITS, LISTS, length == 4), expected, rtol=0)


def test_forced_tokens(run):
    listed = [row[row >= 0].tolist() for row in LISTS]
    length = np.where(SOME, 7, 3)
    expected = theirs(lambda row: hf.ForcedEOSTokenLogitsProcessor(8, listed[row])
                      if listed[row] else None, LOGITS, lengths=length)  # fmt: skip
    assert_same(run(force_token, LOGITS, LISTS, length == 7), expected, rtol=0)
    length = np.where(SOME, 1, 2)
    expected = theirs(lambda row: hf.ForcedBOSTokenLogitsProcessor(row), LOGITS, lengths=length)
    found = run(force_token, LOGITS, np.arange(ROWS)[:, None], length == 1)
    assert_same(found, expected, rtol=0)


# --- whole distributions ---


def remove_invalid(scores, rows):
    return RemoveInvalidValues()(scores, rows, None)


def renormalize(scores, rows):
    return RenormalizeLogits()(scores, rows, None)


def test_guidance(run, random):
    without = (random.standard_normal((ROWS, SIZE)) * 2).astype(np.float32)
    scale = np.array([1.5, 3.0, 0.5, 0.0, -1.0, 1.0])

    class Model:
        def __init__(self, logits):
            self.logits = torch.tensor(logits)[None, None]

        def __call__(self, *args, **kwargs):
            return type("Output", (dict,), {"logits": self.logits})()

    guidance = hf.UnbatchedClassifierFreeGuidanceLogitsProcessor
    expected = theirs(
        lambda row: guidance(scale[row], Model(without[row])) if scale[row] != 1 else None, LOGITS
    )
    assert_same(run(guided_logits, LOGITS, without, scale), expected)


def test_remove_invalid_and_renormalize(run):
    logits = LOGITS.copy()
    logits[:, 3], logits[:, 4], logits[:, 5], logits[2, 6] = np.nan, np.inf, -np.inf, -3e38
    expected = theirs(lambda row: hf.InfNanRemoveLogitsProcessor(), logits)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(run(remove_invalid, logits, ALL), expected)
    mixed = run(remove_invalid, logits, SOME)
    np.testing.assert_array_equal(mixed, np.where(SOME[:, None], expected, logits))
    expected = theirs(lambda row: hf.LogitNormalization() if SOME[row] else None, LOGITS)
    assert_same(run(renormalize, LOGITS, SOME), expected)


# --- history ---

LENGTHS = np.array([0, 1, 2, 3, 5, 8, 11, 12])


def some_history(random, cases, size, columns=16):
    """Histories of many lengths that end in different columns, with tokens of no row around."""
    tokens = random.randint(0, size, (cases, columns))
    tokens[::3] = tokens[::3, np.arange(columns) % 5]  # some rows go round in circles
    length = LENGTHS[np.arange(cases) % len(LENGTHS)]
    end = columns - random.randint(0, columns - length + 1)
    column = np.arange(columns)[None]
    written = (column >= (end - length)[:, None]) & (column < end[:, None])
    return tokens, written, [row[mask] for row, mask in zip(tokens, written, strict=True)]


@pytest.mark.parametrize("size", [2, 4])
def test_repeated_ngrams(run, random, size):
    tokens, written, texts = some_history(random, 160, size)
    logits = random.standard_normal((160, size)).astype(np.float32)
    ngram = np.repeat([0, 1, 2, 3, 4, 5, 9, 2**30], 20)
    random.shuffle(ngram)
    found = run(forbid_repeated_ngrams, logits, tokens, written, ngram)
    expected = theirs(lambda row: hf.NoRepeatNGramLogitsProcessor(int(ngram[row]))
                      if ngram[row] else None, logits, texts)  # fmt: skip
    assert_same(found, expected, rtol=0)
    for n in (1, 2, 3, 4):
        assert np.isneginf(expected[ngram == n]).any(), f"no case for {n}"


def test_repeated_ngrams_of_the_prompt(run, random):
    tokens, written, texts = some_history(random, 160, 3)
    logits = random.standard_normal((160, 3)).astype(np.float32)
    ngram = np.repeat([0, 1, 2, 3, 5], 32)
    random.shuffle(ngram)
    prompt = [len(text) * 2 // 3 for text in texts]
    source = written & (np.cumsum(written, axis=1) <= np.array(prompt)[:, None])
    found = run(forbid_repeated_ngrams, logits, tokens, written, ngram, source)
    expected = theirs(
        lambda row: hf.EncoderNoRepeatNGramLogitsProcessor(
            int(ngram[row]), torch.tensor(texts[row][: prompt[row]][None])
        )
        if ngram[row] else None,
        logits, texts,
    )  # fmt: skip
    assert_same(found, expected, rtol=0)
    whole = run(forbid_repeated_ngrams, logits, tokens, written, ngram)
    assert (whole != found).any()


def some_sequences(random, size, longest=4):
    """Up to seven sequences of ids with their biases."""
    made = {}
    for _ in range(random.randint(1, 8)):
        length = random.randint(1, longest + 1)
        made[tuple(random.randint(0, size, length).tolist())] = float(random.standard_normal())
    return made


def test_sequence_bias(run, random):
    size = 4
    tokens, written, texts = some_history(random, 96, size)
    logits = random.standard_normal((96, size)).astype(np.float32)
    rows = [some_sequences(random, size) for _ in range(96)]
    biases = lay_out_biases([{} if row % 5 == 0 else rows[row] for row in range(96)])
    found = run(add_sequence_bias, logits, tokens, written, biases)
    expected = theirs(
        lambda row: hf.SequenceBiasLogitsProcessor([[list(k), v] for k, v in rows[row].items()])
        if row % 5 else None,
        logits, texts,
    )  # fmt: skip
    assert_same(found, expected)
    long = [any(len(k) > 1 and tuple(texts[i][1 - len(k) :]) == k[:-1] for k in rows[i])
            for i in range(96) if i % 5 and len(texts[i]) > 3]  # fmt: skip
    assert sum(long) >= 5


def test_bad_words_and_the_end_token(run, random):
    size, eos = 4, [3, 1]
    tokens, written, texts = some_history(random, 96, size)
    logits = random.standard_normal((96, size)).astype(np.float32)
    rows = [
        [list(ids) for ids in some_sequences(random, size)] + [[3], [0, 3], [2, 1]]
        for _ in range(96)
    ]
    biases = lay_out_biases([bad_word_biases(words, eos) for words in rows])
    found = run(add_sequence_bias, logits, tokens, written, biases)
    expected = theirs(lambda row: hf.NoBadWordsLogitsProcessor(rows[row], eos), logits, texts)
    out = np.isneginf(expected)
    np.testing.assert_array_equal(found[~out], logits[~out])
    assert np.isfinite(found).all() and (found[out] < -1e29).all()
    assert out.any() and not out[:, 3].all()


def test_layout_of_biases_is_checked():
    with pytest.raises(ValueError, match="1 to 256 tokens"):
        lay_out_biases([{(): 1.0}])
    with pytest.raises(ValueError, match="1 to 256 tokens"):
        lay_out_biases([{(1,) * 257: 1.0}])
    with pytest.raises(ValueError, match="at most 4096"):
        lay_out_biases([{(i,): 1.0 for i in range(4097)}])
    biases = lay_out_biases([{(1,): -math.inf}, {}])
    assert biases.ids.shape == (2, 1, 1) and biases.bias.numpy()[0, 0] == np.float32(MASK_VALUE)


# --- off ---

NO_LISTS = np.full([ROWS, 2], -1)
TOKENS, WRITTEN = np.zeros([ROWS, 8], int), np.ones([ROWS, 8], bool)
OFF_CALLS = {
    "repetition": (penalize_repetition, COUNTS > 0, np.ones(ROWS)),
    "encoder repetition": (lambda x, ids, value: EncoderRepetitionPenalty()(x, value,
                           context_of(ids)), LISTS, np.ones(ROWS)),
    "presence": (penalize_presence, COUNTS, np.zeros(ROWS)),
    "frequency": (penalize_frequency, COUNTS, np.zeros(ROWS)),
    "hamming": (hamming_diversity, LISTS, np.zeros(ROWS)),
    "hamming, none": (hamming_diversity, NO_LISTS, np.ones(ROWS)),
    "forbid": (forbid, COUNTS > 0, ~ALL),
    "suppress": (lambda x, ids: SuppressTokens()(x, ids, None), NO_LISTS),
    "begin": (begin_suppress, LISTS, ~ALL),
    "force": (force_token, LISTS, ~ALL),
    "force, none": (force_token, NO_LISTS, ALL),
    "decay": (decay_length, LISTS, np.zeros(ROWS, int), np.ones(ROWS), LISTS[:, 0] + 9),
    "decay, early": (decay_length, LISTS, LISTS[:, 0], LOGITS[:, 0] ** 2, LISTS[:, 0]),
    "guidance": (guided_logits, LOGITS[::-1], np.ones(ROWS)),
    "invalid": (remove_invalid, ~ALL),
    "renormalize": (renormalize, ~ALL),
    "warp": (warp, [np.full(ROWS, x) for x in (1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0)]),
    "n-grams": (forbid_repeated_ngrams, TOKENS, WRITTEN, np.zeros(ROWS, int)),
    "bias": (add_sequence_bias, TOKENS, WRITTEN, lay_out_biases([{}] * ROWS)),
}  # fmt: skip


def test_off_leaves_every_bit(run):
    logits = LOGITS.copy()
    logits[:, 0], logits[:, 1], logits[:, 2] = -0.0, MASK_VALUE, 3e38
    calls = {name: (call[0], call[1:]) for name, call in OFF_CALLS.items()}
    arguments = {name: given for name, (_, given) in calls.items()}
    found = run(
        lambda x, given: tf.stack([calls[name][0](x, *given[name]) for name in calls]),
        logits, arguments,
    )  # fmt: skip
    for name, values in zip(calls, found, strict=True):
        np.testing.assert_array_equal(values.view(np.int32), logits.view(np.int32), name)


@pytest.mark.long
def test_rows_and_columns_may_be_dynamic():
    """One traced program for any number of rows and columns, and for any setting."""
    vector, matrix = (
        (lambda kind: tf.TensorSpec([None], kind)),
        tf.TensorSpec([None, None], tf.int32),
    )
    program = tf.function(
        lambda x, tokens, written, size, biases, settings: warp(
            add_sequence_bias(
                forbid_repeated_ngrams(x, tokens, written, size), tokens, written, biases
            ),
            settings,
        ),
        [tf.TensorSpec([None, SIZE], tf.float32), matrix, tf.TensorSpec([None, None], tf.bool),
         vector(tf.int32),
         SequenceBiases(tf.TensorSpec([None, None, None], tf.int32),
                        tf.TensorSpec([None, None], tf.float32)),
         [vector(tf.int32 if name == "top_k" else tf.float32) for name in WARPERS]],
        autograph=False, jit_compile=True,
    )  # fmt: skip
    for rows, columns in ((1, 1), (3, 9)):
        settings = [np.full(rows, value) for value in (0.9, 9, 0.95, 0.01, 0.8, 0.01, 0.01)]
        found = program(
            tensor(LOGITS[:rows]), tensor(np.zeros([rows, columns], int)),
            tensor(np.ones([rows, columns], bool)), tensor(np.full(rows, 1)),
            lay_out_biases([{(1, 2): 3.0}] * rows), [tensor(value) for value in settings],
        )  # fmt: skip
        assert (found.numpy()[:, 0] < -1e29).all()
    assert program.experimental_get_tracing_count() == 1
