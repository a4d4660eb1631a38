"""The decode loop against a slow twin that reads the whole text anew for every token."""

import time

import numpy as np
import pytest
import tensorflow as tf

from tests.support import beam_batches
from tests.support import decoding_twins as twins
from tfgpt2.generation import stopping
from tfgpt2.generation.compiled import CompiledDecoder
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.params import DecodeSpec, Prompt
from tfgpt2.generation.strategies import sampling
from tfgpt2.generation.strategies.base import DecodeTask

RANDOM = np.random.RandomState(0)
ROWS, COLUMNS, ROOM = 6, 16, 16
LENGTHS = [5, 3, 16, 1, 9, 7]
PROMPTS = [RANDOM.randint(0, 23, length).tolist() for length in LENGTHS]
# Settings of each row, all different.
MIXED = {
    "max_new_tokens": [16, 10, 16, 3, 0, 16],
    "min_new_tokens": [0, 4, 0, 0, 0, 16],
    "temperature": [0.0, 1.0, 0.8, 0.0, 1.0, 1.2],
    "top_k": [0, 0, 6, 0, 3, 0],
    "top_p": [1.0, 0.9, 1.0, 1.0, 1.0, 0.8],
    "min_p": [0.0, 0.0, 0.05, 0.0, 0.0, 0.01],
    "repetition_penalty": [1.0, 1.0, 1.4, 1.9, 1.0, 0.8],
    "seed": [0, 7, 2**40 + 1, 3, 5, 2**63 - 1],
}
EOS = [4, 11]
REASONS = stopping.FINISH_REASONS


@pytest.fixture(scope="module")
def decoders(model):
    return {mode: CompiledDecoder(model, jit_compile=mode == "jit") for mode in ("graph", "jit")}


SPEC = DecodeSpec(sampling.Sampling())


def params_of(values, eos=(-1,), rows=ROWS):
    given = {
        name: tf.constant(np.broadcast_to(values.get(name, one.off), [rows]), one.dtype)
        for name, one in REQUEST_OPTIONS.items()
    }
    return beam_batches.params_of(given, tf.tile(tf.constant([list(eos)]), [rows, 1]))


def right_aligned(prompts, columns=COLUMNS):
    ids = np.array([[0] * (columns - len(row)) + list(row) for row in prompts], np.int32)
    mask = np.array([[0] * (columns - len(row)) + [1] * len(row) for row in prompts], np.int32)
    return Prompt(tf.constant(ids), tf.constant(mask))


def rows_of(result):
    """Tokens, log-probabilities and reason of each row."""
    return [
        (tokens[:count].tolist(), logprobs[:count].tolist(), REASONS[reason])
        for tokens, logprobs, count, reason in zip(
            *(x.numpy() for x in (result.tokens, result.logprobs, result.count, result.reason)),
            strict=True,
        )
    ]


def decode(decoder, values, eos=(-1,), prompts=PROMPTS, columns=COLUMNS, room=ROOM):
    rows = len(prompts)
    params, buffer = params_of(values, eos, rows), tf.zeros([rows, room], tf.int32)
    return rows_of(decoder.run(SPEC, right_aligned(prompts, columns), params, buffer))


@pytest.fixture(scope="module")
def score(model):
    """Logits of the next token from a plain forward pass over everything so far."""
    forward = tf.function(
        lambda ids: model(ids, use_cache=False).logits[0, -1],
        input_signature=[tf.TensorSpec([1, None], tf.int32)],
        autograph=False,
    )
    return lambda ids: forward(tf.constant([ids], tf.int32)).numpy()


@pytest.fixture(scope="module")
def slow(score):
    """What the slow twin makes of the mixed rows."""
    values = [{name: value[row] for name, value in MIXED.items()} for row in range(ROWS)]
    return [
        twins.decode(score, prompt, eos=EOS, context=48, **one)
        for prompt, one in zip(PROMPTS, values, strict=True)
    ]


def check(found, expected):
    for (tokens, logprobs, reason), (slow_tokens, slow_logprobs, slow_reason) in zip(
        found, expected, strict=True
    ):
        assert (tokens, reason) == (slow_tokens, slow_reason)
        np.testing.assert_allclose(logprobs, slow_logprobs, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("mode", [pytest.param("jit", marks=pytest.mark.long), "graph"])
def test_mixed_rows_equal_the_slow_twin(decoders, slow, mode):
    check(decode(decoders[mode], MIXED, EOS), slow)
    assert {reason for _, _, reason in slow} == {"length", "eos"}


def test_eager_equals_the_slow_twin(model, slow):
    buffer = tf.zeros([ROWS, ROOM])
    task = DecodeTask(model, right_aligned(PROMPTS), params_of(MIXED, EOS), SPEC, buffer)
    check(rows_of(sampling.decode(task)), slow)


@pytest.mark.parametrize("mode", ["jit", "graph"])
@pytest.mark.parametrize("seed", [0, 1])
def test_sampled_tokens_are_the_same_in_both_modes(decoders, score, mode, seed):
    values = {"max_new_tokens": 16, "temperature": 1.0, "seed": np.arange(ROWS) + 1000 * seed}
    found = decode(decoders[mode], values)
    for row in (0, 2):
        one = {"max_new_tokens": 16, "temperature": 1.0, "seed": row + 1000 * seed}
        check(found[row : row + 1], [twins.decode(score, PROMPTS[row], context=48, **one)])
    texts = [tuple(tokens) for tokens, _, _ in found]
    assert len(set(texts)) == ROWS


def test_a_row_depends_on_nothing_but_itself(decoders, slow):
    decoder = decoders["graph"]
    for row in range(ROWS):
        values = {name: value[row] for name, value in MIXED.items()}
        alone = decode(decoder, values, EOS, [PROMPTS[row]])
        check(alone, slow[row : row + 1])
    order = [3, 5, 0, 2, 4, 1]  # other neighbours, another bucket, another size of the output
    values = {name: [value[row] for row in order] for name, value in MIXED.items()}
    found = decode(decoder, values, EOS, [PROMPTS[row] for row in order], columns=32, room=17)
    check(found, [slow[row] for row in order])


def test_a_compiled_row_depends_on_nothing_but_itself(decoders, slow):
    values = {name: value[2] for name, value in MIXED.items()}
    check(decode(decoders["jit"], values, EOS, [PROMPTS[2]], columns=32, room=20), slow[2:3])


def test_padding_is_not_penalized(decoders, score):
    """Token 0 fills the padding; a row that does not hold it must not be penalized for it."""
    prompts = [[3, 5], [0, 5]]
    values = {"max_new_tokens": 6, "repetition_penalty": 1000.0}
    found = decode(decoders["graph"], values, prompts=prompts)
    expected = [
        twins.decode(score, row, context=48, max_new_tokens=6, repetition_penalty=1000.0)
        for row in prompts
    ]
    check(found, expected)


def test_limits_of_each_row(decoders):
    found = decode(decoders["graph"], {"max_new_tokens": [0, 1, 2, 15, 16, 2**30]})
    assert [len(tokens) for tokens, _, _ in found] == [0, 1, 2, 15, 16, 16]
    assert {reason for _, _, reason in found} == {"length"}


def test_end_tokens(decoders, score):
    decoder = decoders["graph"]
    values = {"max_new_tokens": 16}
    free = decode(decoder, values)
    for row, (tokens, _, _) in enumerate(free):
        end = tokens[4]
        first = tokens.index(end)
        found = decode(decoder, values, [end, -1])[row]
        assert found[0] == tokens[: first + 1] and found[2] == "eos"
    # An end token is impossible before its time and possible after it.
    values["min_new_tokens"] = 6
    for tokens, logprobs, reason in decode(decoder, values, range(12)):
        assert min([*tokens[:6], 99]) >= 12 and np.isfinite(logprobs).all()
        assert all(token >= 12 for token in tokens[:-1])
        assert (reason == "eos") == (tokens[-1] < 12)
    # Nothing is left to choose: the first token is taken, and the row still ends.
    every = decode(decoder, {"max_new_tokens": 3, "min_new_tokens": 2}, range(23))
    assert all(len(tokens) <= 3 for tokens, _, _ in every)


@pytest.mark.long
def test_parts_of_a_stream_are_the_whole(decoders, slow):
    decoder = decoders["graph"]
    buffer = tf.zeros([ROWS, ROOM], tf.int32)
    request = (SPEC, right_aligned(PROMPTS), params_of(MIXED, EOS), buffer)
    state = decoder.start(*request)
    for until in (1, 2, 5, 9, 100):
        state = decoder.advance(*request, state, tf.constant(until))
    check(rows_of(sampling.finish(state)), slow)


@pytest.mark.long
def test_no_setting_asks_for_another_program(decoders):
    """Once compiled, other values take no more than a fifth of the first call's time."""
    decoder = decoders["jit"]
    fresh = CompiledDecoder(decoder._model, jit_compile=True)
    start = time.perf_counter()
    decode(fresh, {"max_new_tokens": 4})
    first = time.perf_counter() - start
    for values in (MIXED, {"max_new_tokens": 16}, {"temperature": 2.0, "top_k": 5, "seed": 3},
                   {"top_p": 0.3, "temperature": 0.5, "max_new_tokens": 9}):  # fmt: skip
        start = time.perf_counter()
        decode(fresh, values, [1])
        again = time.perf_counter() - start
        assert again < 0.2 * first, f"{again:.2f} s after {first:.2f} s"
    (program,) = fresh._programs.values()
    assert program.experimental_get_tracing_count() == 1


def test_weights_that_are_no_numbers_still_end(build):
    broken = build(seed=99)
    broken.transformer.ln_f.bias.assign(np.full(16, np.nan))
    params, buffer = params_of({"max_new_tokens": 3}), tf.zeros([ROWS, 16])
    result = sampling.decode(DecodeTask(broken, right_aligned(PROMPTS), params, SPEC, buffer))
    assert result.count.numpy().tolist() == [3] * ROWS
    assert 0 <= result.tokens.numpy().min() <= result.tokens.numpy().max() < 23
