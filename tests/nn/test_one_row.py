"""What XLA makes of a decode loop of one row with matrices of 8 and 16 bits."""

import re

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2.nn import int8, one_row, sixteen_bits
from tfgpt2.nn.layers import Conv1D, Embedding
from tfgpt2.serving.export.stored_weights import convert

# XLA's names; "in float32" are the models of exports, which compute in float32.
LIGHT = {
    "int8": "s8",
    "bfloat16": "bf16",
    "float16": "f16",
    "bfloat16 in float32": "bf16",
    "float16 in float32": "f16",
}


def make_model(weights):
    """With widths by which matrices are recognised in a program."""
    config = tfgpt2.GPT2Config(vocab_size=97, n_positions=40, n_embd=32, n_layer=2, n_head=4)
    if weights in ("bfloat16", "float16"):
        return tfgpt2.TFGPT2LMHeadModel(config, dtype=weights)
    model = tfgpt2.TFGPT2LMHeadModel(config)
    if weights == "int8":
        model.quantize("int8")
        return model
    return convert(model, weights.split()[0])[0]


@pytest.fixture(scope="module")
def model():
    return make_model("int8")


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


KERNELS = ["96,32", "32,32", "128,32", "32,128"]
MATRICES = [*KERNELS, "97,32"]


def widened(state):
    """The matrices that a loop carries as float32, in either order."""
    turned = [",".join(reversed(shape.split(","))) for shape in MATRICES]
    return [shape for shape in MATRICES + turned if f"f32[{shape}]" in state]


# Two rows of int8 are quantised and multiplied at once.
@pytest.mark.parametrize(
    ("weights", "rows"),
    [(name, rows) for name in LIGHT for rows in (1, 2) if (name, rows) != ("int8", 2)],
)
def test_the_loop_of_one_row_carries_no_widened_matrix(weights, rows):
    model, kind = make_model(weights), LIGHT[weights]
    program = decode_program(model, rows)
    state = carried(program)
    assert not widened(state)
    assert f"{kind}[97,32]" in state
    for shape in KERNELS:  # live float models turn the bits of theirs before the loop
        assert re.search(rf"(?:u16|{kind})\[{shape}\]", state), shape
    # Each product is one loop over the stored numbers, and nothing else is in that loop.
    loops = re.findall(
        r"^%?fused_computation[^\n]*\{\n((?:(?!^\}).*\n)*?.*ROOT.* dot\(.*)\n", program, re.M
    )
    assert len(loops) >= rows * (4 * 2 + 1)


@pytest.mark.parametrize("weights", LIGHT)
def test_what_the_test_above_would_find(weights, monkeypatch):
    """Widened as it stands, every matrix becomes a float32 copy."""

    def plain(x, stored, bits_of=None):
        stored = stored if bits_of is None else tf.bitcast(stored, bits_of)
        return tf.matmul(x, tf.cast(stored, tf.float32), transpose_b=True)

    for module in (int8, sixteen_bits):
        monkeypatch.setattr(module, "multiply_one_row", plain)
    assert widened(carried(decode_program(make_model(weights), 1)))


def layer_of(kind, weights):
    """A layer with random float32 numbers rounded to a type, and its `[in, out]` matrix."""
    matrix = tf.random.stateless_normal([48, 20], [1, 2])
    if kind == "kernel":
        layer = Conv1D(48, 20, stddev=1.0, dtype=weights)
        layer.build()
        layer.weight.assign(matrix)
        layer.bias.assign(tf.range(20.0))
    else:
        layer = Embedding(20, 48, stddev=1.0, dtype=weights)
        layer.build()
        layer.weight.assign(tf.transpose(matrix))
    return layer, tf.cast(tf.cast(matrix, weights), tf.float32)


@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["kernel", "table"])
def test_every_number_of_rows_gets_the_products_of_the_stored_numbers(kind, weights):
    layer, matrix = layer_of(kind, weights)

    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec([None, 1, 48], weights)])
    def compiled(x):
        return layer(x) if kind == "kernel" else layer.score(x)

    precision = 2.0**-8 if weights == "bfloat16" else 2.0**-11
    for rows in range(7):
        x = tf.cast(tf.random.stateless_normal([rows, 1, 48], [3, rows]), weights)
        exact = tf.cast(x, tf.float32)[:, 0] @ matrix
        exact += tf.range(20.0) if kind == "kernel" else 0.0
        got = tf.cast(compiled(x), tf.float32)[:, 0]
        # The product is rounded once, and once more with the bias.
        np.testing.assert_allclose(got, exact, atol=2 * 40 * precision, rtol=0)
        if rows > 1:  # and each row is itself, not another one
            assert np.abs(got - exact[::-1]).max() > 1


def test_branches_are_left_alone():
    """XLA moves nothing out of a branch, so a matrix would be turned in each step."""

    layer, _ = layer_of("kernel", "bfloat16")

    @tf.function(jit_compile=True)
    def compiled(x):
        return layer(x)

    @tf.function(jit_compile=True)
    def branch(x):
        with one_row.in_branch():
            return layer(x)

    x = tf.ones([1, 1, 48], tf.bfloat16)
    texts = [f.experimental_get_compiler_ir(x)(stage="hlo") for f in (compiled, branch)]
    assert ["opt-barrier" in text for text in texts] == [True, False]
    np.testing.assert_allclose(
        tf.cast(compiled(x), tf.float32), tf.cast(branch(x), tf.float32), rtol=2.0**-6, atol=0.1
    )


@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
def test_a_gradient_passes(weights):
    """A step of training on one token under XLA."""
    layer, matrix = layer_of("kernel", weights)

    @tf.function(jit_compile=True)
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(layer(x))
        return tape.gradient(total, [x, layer.weight.value])

    x = tf.ones([1, 1, 48], weights)
    by_x, by_weight = gradients(x)
    np.testing.assert_allclose(
        tf.cast(by_x, tf.float32)[0, 0], tf.reduce_sum(matrix, axis=1), atol=0.1, rtol=0
    )
    np.testing.assert_array_equal(tf.cast(by_weight, tf.float32), np.ones([48, 20]))

    table, _ = layer_of("table", weights)

    @tf.function(jit_compile=True)
    def lookup_gradient(ids):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(table(ids))
        return tf.convert_to_tensor(tape.gradient(total, table.weight.value))

    expected = np.zeros([20, 48])
    expected[3], expected[5] = 2, 1
    got = lookup_gradient(tf.constant([[3, 5, 3]]))
    np.testing.assert_array_equal(tf.cast(got, tf.float32), expected)


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
