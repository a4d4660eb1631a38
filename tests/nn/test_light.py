"""Matrices of 16 bits and products of one row: results, and what XLA makes of them."""

import re

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2.nn import half, light
from tfgpt2.serving.export.stored_weights import convert

HALVES = [tf.bfloat16, tf.float16]


@pytest.mark.parametrize("dtype", HALVES, ids=lambda dtype: dtype.name)
def test_bits_are_the_rounded_values(dtype):
    every = np.arange(2**16, dtype=np.uint16)
    values = tf.cast(tf.bitcast(tf.constant(every), dtype), tf.float32).numpy()
    for jit in (False, True):
        found = tf.function(lambda bits: half.from_bits(bits, dtype), jit_compile=jit)(every)
        np.testing.assert_array_equal(found, values)
    finite = values[np.isfinite(values)]
    np.testing.assert_array_equal(
        half.from_bits(half.to_bits(tf.constant(finite), dtype), dtype), finite
    )


@pytest.mark.parametrize("dtype", HALVES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_products_are_those_of_the_rounded_matrix(rows, dtype):
    random = np.random.default_rng(rows)
    x = random.normal(0, 2, (rows, 300)).astype(np.float32)
    matrix = random.normal(0, 1, (40, 300)).astype(np.float32)
    bits = half.to_bits(tf.constant(matrix), dtype)
    rounded = tf.cast(tf.cast(matrix, dtype), tf.float64).numpy()
    expected = x.astype(np.float64) @ rounded.T
    bound = 1e-6 * np.abs(x) @ np.abs(rounded.T)  # of float32 sums
    for shape in ([rows, 300], [None, 300]):
        for jit in (False, True):
            program = tf.function(
                lambda x: half.half_matmul(x, bits, dtype),
                [tf.TensorSpec(shape)],
                jit_compile=jit,
            )
            assert np.all(np.abs(program(x) - expected) <= bound)


@pytest.fixture(scope="module")
def model():
    """With widths by which matrices are recognised in a program."""
    config = tfgpt2.GPT2Config(vocab_size=97, n_positions=40, n_embd=32, n_layer=2, n_head=4)
    return tfgpt2.TFGPT2LMHeadModel(config)


def decode_program(model, rows):
    """XLA's program of a decode loop, as text."""
    ids = tf.ones([rows, 3], tf.int32)

    @tf.function(jit_compile=True, autograph=False, input_signature=[
        tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([], tf.int32)])  # fmt: skip
    def decode(ids, steps):
        logits, cache = model.prefill(ids, tf.ones_like(ids), columns=tf.constant(16))
        real = tf.ones([tf.shape(ids)[0], 1], tf.bool)

        def step(count, token, cache):
            logits, cache = model.decode_step(token, real, cache, in_place=True)
            return count + 1, tf.argmax(logits, -1, tf.int32), cache

        first = tf.argmax(logits, -1, tf.int32)[:, None]
        start = (tf.constant(0), first, cache)
        return tf.while_loop(lambda count, *_: count < steps, step, start)[1]

    return decode.experimental_get_compiler_ir(ids, tf.constant(3))(stage="optimized_hlo")


MATRICES = ["96,32", "32,32", "128,32", "32,128", "97,32"]


@pytest.mark.parametrize("storage", light.STORAGES)
def test_the_loop_of_one_row_carries_no_widened_matrix(model, storage):
    copy = convert(model, storage)[0]
    stored = "s8" if storage == "int8" else "u16"
    state = loop_state(decode_program(copy, 1))
    for shape in MATRICES:
        assert f"{stored}[{shape}]" in state, shape
        assert f"f32[{shape}]" not in state, shape


def loop_state(program):
    """The shapes that the decode loop carries: the longest tuple of a `while`."""
    return max(re.findall(r"= \((.*?)\) while\(", program), key=len)


def test_what_the_test_above_would_find(model, monkeypatch):
    """Widened as it stands, every matrix becomes a float32 copy."""
    monkeypatch.setattr(half, "keep_in_loop", lambda stored, x: stored)
    # What is shared between matrices of one shape would stay as it was.
    monkeypatch.setattr(half, "traced_once", lambda product, *arguments: product(*arguments))
    half_model = convert(model, "bfloat16")[0]
    state = loop_state(decode_program(half_model, 1))
    assert [shape for shape in MATRICES if f"f32[{shape}]" in state]
