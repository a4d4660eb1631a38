"""Incremental decoding equals a full forward pass: `past_key_values`, and the KV cache."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.support import model_cases as cases
from tfgpt2.nn import attention
from tfgpt2.nn.attention import attend, decode_attend
from tfgpt2.nn.kv_cache import (
    align_right,
    pack,
    positions_from_mask,
    stored_dtype,
    unpack,
    write,
    write_rows,
)

IDS = np.random.RandomState(3).randint(0, 23, (3, 12)).astype(np.int32)
MASK = np.ones_like(IDS)
MASK[0, 8:] = 0  # right padded
MASK[1, :5] = 0  # left padded
SCATTERED = MASK.copy()
SCATTERED[2, [0, 3, 4, 11]] = 0
LIMIT = 1e-5


@pytest.fixture
def model(load_case):
    return load_case(cases.CASES["plain"])


def logits_without_padding(model, ids, mask):
    """The logits of each row's tokens, computed row by row without padding."""
    return [
        model(row[keep > 0][None]).logits[0].numpy() for row, keep in zip(ids, mask, strict=True)
    ]


@pytest.mark.parametrize("steps", [[12], [1, 11], [11, 1], [4, 4, 4], [1] * 12, [5, 1, 6]])
def test_past_key_values(model, steps, record_difference):
    whole, past, start = model(IDS).logits, None, 0
    for size in steps:
        out = model(IDS[:, start : start + size], past_key_values=past)
        past, start = out.past_key_values, start + size
        difference = np.abs(out.logits - whole[:, start - size : start]).max()
        record_difference("past_key_values against one call", difference)
        assert difference < LIMIT
        assert past[0].shape == (2, 3, 2, start, 8)
        assert (
            np.abs(out.past_key_values[1] - model(IDS[:, :start]).past_key_values[1]).max() < LIMIT
        )


def test_past_in_other_forms(model):
    past = model(IDS[:, :4]).past_key_values
    expected = model(IDS[:, 4:], past_key_values=past).logits
    for form in (
        list(past),
        [part.numpy() for part in past],
        [tuple(tf.unstack(part)) for part in past],
    ):
        np.testing.assert_array_equal(model(IDS[:, 4:], past_key_values=form).logits, expected)


@pytest.mark.parametrize("mask", [MASK, SCATTERED])
def test_mask_over_past_and_current(model, mask):
    positions = positions_from_mask(mask)
    past = None
    for start in (0, 4, 8):
        now = slice(start, start + 4)
        out = model(
            IDS[:, now],
            past_key_values=past,
            attention_mask=mask[:, : start + 4],
            position_ids=positions[:, now],
        )
        past = out.past_key_values
        for row, (ours, real) in enumerate(zip(out.logits, mask[:, now], strict=True)):
            before = mask[row, :start].sum()
            expected = logits_without_padding(model, IDS, mask)[row][before : before + real.sum()]
            np.testing.assert_allclose(ours[real > 0], expected, atol=LIMIT)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("mask", [MASK, SCATTERED])
@pytest.mark.parametrize("spare", [0, 7])
def test_prefill(model, in_place, mask, spare, record_difference):
    ids, aligned = align_right(tf.constant(IDS), tf.constant(mask))
    call = tf.function(
        lambda ids, mask: model.prefill(ids, mask, columns=tf.shape(ids)[1] + spare),
        jit_compile=in_place,
    )
    logits, cache = call(ids, aligned)
    for row, expected in enumerate(logits_without_padding(model, IDS, mask)):
        difference = np.abs(logits[row] - expected[-1]).max()
        record_difference("prefill and decode_step against a full forward", difference)
        assert difference < LIMIT
    np.testing.assert_array_equal(cache.positions, mask.sum(1))
    np.testing.assert_array_equal(cache.valid, np.pad(aligned, ((0, 0), (0, spare))) > 0)
    assert int(cache.column) == 12 and cache.keys[0].shape == (3, 2, 12 + spare, 8)


@pytest.mark.parametrize("in_place", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("steps", [
    *(pytest.param(steps, marks=pytest.mark.long) for steps in ([1] * 6, [6])), [2, 3, 1]
])  # fmt: skip
def test_decode_steps(model, in_place, steps, record_difference):
    """Rows of different lengths, with steps in which some rows have no token."""
    new = np.random.RandomState(4).randint(0, 23, (3, 6)).astype(np.int32)
    valid = np.ones_like(new, bool)
    valid[0, 2] = valid[2, 4:] = False
    ids, mask = align_right(tf.constant(IDS), tf.constant(MASK))
    step = tf.function(
        lambda ids, valid, cache: model.decode_step(ids, valid, cache, in_place=in_place),
        jit_compile=in_place,
    )
    prefill = tf.function(
        lambda: model.prefill(ids, mask, columns=tf.constant(18)),
        jit_compile=in_place,
    )
    (_, cache), start, results = prefill(), 0, []
    for size in steps:
        now = slice(start, start + size)
        logits, cache = step(tf.constant(new[:, now]), tf.constant(valid[:, now]), cache)
        results.append(logits)
        start += size
    logits = np.concatenate(results, axis=1)
    together = np.concatenate([IDS, new], 1), np.concatenate([MASK, valid], 1)
    for row, expected in enumerate(logits_without_padding(model, *together)):
        ours = logits[row][valid[row]]
        difference = np.abs(ours - expected[-len(ours) :]).max()
        record_difference("prefill and decode_step against a full forward", difference)
        assert difference < LIMIT
    np.testing.assert_array_equal(cache.positions, together[1].sum(1))


def test_a_row_past_the_context_stays_finite(model):
    ids, mask = tf.constant(IDS), tf.ones([3, 12], tf.int32)
    _, cache = model.prefill(ids, mask, columns=tf.constant(40))
    many, valid = tf.zeros([3, 20], tf.int32), tf.ones([3, 20], tf.bool)
    logits, cache = model.decode_step(many, valid, cache, in_place=False)
    assert np.isfinite(logits).all() and int(cache.column) == 32


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("column", [0, 3, 5])
def test_write_in_place_is_write(dtype, column):
    buffer = tf.random.stateless_normal([2, 3, 7, 4], [0, 1], dtype=dtype)
    new = tf.random.stateless_normal([2, 3, 2, 4], [2, 3])
    column = tf.constant(column)
    slow = write(buffer, new, column, in_place=False)
    fast = tf.function(lambda *x: write(*x, in_place=True), jit_compile=True)(buffer, new, column)
    np.testing.assert_array_equal(slow, fast)
    expected = buffer.numpy()
    expected[:, :, int(column) : int(column) + 2] = new.numpy().astype(dtype)
    np.testing.assert_array_equal(slow, expected)


def test_rows_write_into_columns_of_their_own():
    random = np.random.RandomState(0)
    buffers = [random.standard_normal([3, 2, 6, 4]).astype(np.float32) for _ in range(2)]
    new = [random.standard_normal([3, 2, 1, 4]).astype(np.float32) for _ in range(2)]
    columns = [0, 5, 2]
    expected = [buffer.copy() for buffer in buffers]
    for after, x in zip(expected, new, strict=True):
        for row, column in enumerate(columns):
            after[row, :, column] = x[row, :, 0]
    for in_place in (False, True):
        write = tf.function(functools.partial(write_rows, in_place=in_place), jit_compile=in_place)
        found = write(
            tuple(map(tf.constant, buffers)), tuple(map(tf.constant, new)), tf.constant(columns)
        )
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_align_right_keeps_the_order():
    random = np.random.RandomState(0)
    ids, mask = random.randint(1, 99, (50, 9)), random.randint(0, 2, (50, 9))
    right, right_mask = align_right(tf.constant(ids), tf.constant(mask))
    for row in range(50):
        kept = ids[row][mask[row] > 0]
        np.testing.assert_array_equal(right[row][9 - len(kept) :], kept)
        assert not right[row][: 9 - len(kept)].numpy().any()
        assert right_mask[row].numpy().tolist() == [0] * (9 - len(kept)) + [1] * len(kept)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("columns", [5, 128 + 37])
@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.long)]
)
def test_decode_attention_reads_the_used_columns_only(
    jit_compile, columns, length, dtype, record_difference
):
    """The result of plain attention in float32, whatever the other columns hold."""
    query, key, value = (
        tf.random.stateless_normal([3, 2, size, 8], [size, 1 + size % 7])
        for size in (length, columns, columns)
    )
    key, value = pack(key, dtype), pack(value, dtype)
    assert key.dtype == stored_dtype(dtype)
    program = tf.function(lambda *x: decode_attend(*x, scale=0.35), jit_compile=jit_compile)
    ends = {1, 4, columns // 2 + 1, columns - 1, columns}
    for first, end in [(0, end) for end in sorted(ends)] + [(3, 4), (columns - 2, columns)]:
        column = tf.range(columns)
        random = tf.random.stateless_uniform([3, 1, length, columns], [end, 3]) < 0.7
        used = (first <= column) & (column < end)
        mask = used & (random | (column == first))
        kept = (unpack(x, tf.float32) for x in (key, value))
        expected, _ = attend(query, *kept, mask, scale=0.35, dropout=lambda x: x)
        broken = tf.where(used[:, None], value, pack(tf.constant(7.0), dtype))
        found = program(query, key, broken, mask, tf.stack([first, end]))
        difference = float(tf.reduce_max(tf.abs(found - expected)))
        record_difference(f"attention of decode steps, cache in {dtype}", difference)
        assert difference < LIMIT


def test_many_rows_are_read_in_short_blocks(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK_SIZE", 64 * 3 * 2 * 8)
    test_decode_attention_reads_the_used_columns_only(False, 165, 1, "bfloat16", lambda *_: None)


def test_pack_rounds_to_nearest_and_keeps_what_is_not_a_number():
    values = tf.constant([0.0, -0.0, 1 + 2**-9, 1 + 3 * 2**-8, 3e38, np.inf, -np.inf, 1e-40])
    found = unpack(pack(values, "bfloat16"), tf.float32)
    expected = tf.cast(tf.cast(values, tf.bfloat16), tf.float32)
    np.testing.assert_array_equal(tf.bitcast(found, tf.uint32), tf.bitcast(expected, tf.uint32))
    assert np.isnan(unpack(pack(tf.constant(np.nan), "bfloat16"), tf.float32))
    again = pack(pack(values, "bfloat16"), "float16")
    np.testing.assert_array_equal(again, tf.cast(expected, tf.float16))
    assert pack(values, "float32") is values
