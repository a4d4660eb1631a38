"""What XLA makes of a decode loop of one row with int8 matrices."""

import re

import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2.nn import int8


@pytest.fixture(scope="module")
def model():
    """With widths by which matrices are recognised in a program."""
    config = tfgpt2.GPT2Config(vocab_size=97, n_positions=40, n_embd=32, n_layer=2, n_head=4)
    model = tfgpt2.TFGPT2LMHeadModel(config)
    model.quantize("int8")
    return model


def decode_function(model):
    """A prompt and a decode loop, for any number of rows."""

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

    return decode


def decode_program(model, rows):
    """XLA's program of a decode loop, as text."""
    inputs = tf.ones([rows, 3], tf.int32), tf.constant(3)
    return decode_function(model).experimental_get_compiler_ir(*inputs)(stage="optimized_hlo")


def carried(program):
    """The shapes that the decode loop carries: the longest tuple of a `while`."""
    return max(re.findall(r"= \((.*?)\) while\(", program), key=len)


MATRICES = ["96,32", "32,32", "128,32", "32,128", "97,32"]


def test_the_loop_of_one_row_carries_no_widened_matrix(model):
    program = decode_program(model, 1)
    for shape in MATRICES:
        assert f"s8[{shape}]" in carried(program), shape
        assert f"f32[{shape}]" not in carried(program), shape
    # Each product is one loop over the integers, and nothing else is in that loop.
    loops = re.findall(
        r"^%?fused_computation[^\n]*\{\n((?:(?!^\}).*\n)*?.*ROOT.* dot\(.*)\n", program, re.M
    )
    assert len(loops) >= 4 * 2 + 1


def test_what_the_test_above_would_find(model, monkeypatch):
    """Widened as it stands, every matrix becomes a float32 copy."""

    def plain(x, stored):
        return tf.matmul(x, tf.cast(stored, tf.float32), transpose_b=True)

    monkeypatch.setattr(int8, "multiply_one_row", plain)
    state = carried(decode_program(model, 1))
    assert [shape for shape in MATRICES if f"f32[{shape}]" in state]


def test_xla_does_not_run_the_model_to_compile_it(model):
    """The number of rows decides between two forms, and only that number may be asked for.

    XLA finds out the index of a `switch_case` by running what it is computed from, without
    compiling it: a model of 124M did not get through in five minutes.
    """
    graph = decode_function(model).get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    kinds = {node.op for node in nodes}
    assert "While" in kinds or "StatelessWhile" in kinds
    assert not kinds & {"Case", "StatelessCase"}
