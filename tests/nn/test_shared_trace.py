"""Blocks that are alike share a trace, and others do not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2.nn import backbone, shared_trace
from tfgpt2.nn.shared_trace import trace_key
from tfgpt2.training.lora import enable_lora

LAYERS = 2
IDS = np.array([[5, 6, 7, 8], [0, 9, 10, 11]])
MASK = np.array([[1, 1, 1, 1], [0, 1, 1, 1]])


def make_model(**options):
    keras.utils.set_random_seed(3)
    config = tfgpt2.GPT2Config(
        n_layer=LAYERS, n_embd=24, n_head=2, vocab_size=61, n_positions=40, **options
    )
    model = tfgpt2.TFGPT2LMHeadModel(config)
    for block in model.transformer.h:  # biases and norms that differ, as trained ones do
        for weight in block.variables:
            weight.assign(
                weight + np.random.RandomState(len(weight.path)).normal(0, 0.1, weight.shape)
            )
    return model


@pytest.fixture
def traces(monkeypatch):
    """Counts the traces of blocks."""
    calls, run = [], shared_trace._run

    def counted(block, *args):
        calls.append(block.name)
        return run(block, *args)

    monkeypatch.setattr(shared_trace, "_run", counted)
    return calls


def hidden(model):
    """What a prompt and a further token become, in one program."""

    @tf.function(jit_compile=True, autograph=False)
    def program(ids, mask):
        transformer = model.transformer
        first, cache = transformer.prefill_hidden(ids, mask, columns=tf.constant(8))
        return first, transformer.decode_hidden(ids[:, :1], mask[:, 3:], cache, in_place=True)[0]

    return [x.numpy() for x in program(tf.constant(IDS, tf.int32), tf.constant(MASK > 0))]


def assert_as_each_by_itself(model, monkeypatch):
    shared = hidden(model)
    monkeypatch.setattr(backbone, "is_xla_traced", lambda: False)
    for together, alone in zip(shared, hidden(model), strict=True):
        np.testing.assert_allclose(together, alone, atol=2e-6)


def test_alike_blocks_are_traced_once(traces, monkeypatch):
    model = make_model()
    hidden(model)
    assert traces == ["h_0"] * 2  # prompt, further token
    assert_as_each_by_itself(model, monkeypatch)


def test_weights_are_read_at_each_call(monkeypatch):
    model = make_model()
    program = tf.function(
        lambda ids: model.transformer.prefill_hidden(ids, ids > 0, columns=tf.constant(4))[0],
        jit_compile=True,
        autograph=False,
    )
    ids = tf.constant(IDS, tf.int32)
    before = program(ids).numpy()
    bias = model.transformer.h[1].mlp.c_proj.bias
    bias.assign(np.arange(24.0))
    after = program(ids).numpy()
    assert np.abs(after - before).max() > 0.1


@pytest.mark.parametrize(
    "options", [{"scale_attn_by_inverse_layer_idx": True}, {"pruned_heads": {1: [0]}}]
)
def test_blocks_that_compute_differently_are_traced_each(traces, monkeypatch, options):
    model = make_model(**options)
    hidden(model)
    assert traces == ["h_0", "h_1"] * 2
    assert_as_each_by_itself(model, monkeypatch)


def test_a_replaced_method_or_foreign_layer_is_called(traces):
    class Doubling(keras.layers.Layer):
        def call(self, x, **kwargs):
            return 2 * x

    model = make_model()
    plain = hidden(model)
    model.transformer.h[1].mlp.act = lambda x: x * 0
    assert not np.allclose(plain[1], hidden(model)[1], atol=1e-3)
    assert traces.count("h_1") == 2
    norm = Doubling()
    norm.build((None, None, 24))
    assert trace_key(norm) != trace_key(Doubling())


def test_matrices_outside_keras_belong_to_their_block(traces):
    """int8 matrices of some exports are plain variables, which no scope replaces."""
    model = make_model()
    model.quantize("int8")
    expected = hidden(model)
    assert traces == ["h_0"] * 2
    for block in model.transformer.h:
        for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            layer.store_as_float32()
    for before, after in zip(expected, hidden(model), strict=True):
        np.testing.assert_allclose(after, before, atol=2e-5)


def test_an_adapter_of_one_block(traces, monkeypatch):
    model = make_model()
    enable_lora(model, rank=2, targets="h.1.attn.c_attn")
    factor = model.transformer.h[1].attn.c_attn.lora_kernel_b
    factor.assign(np.ones(factor.shape))
    hidden(model)
    assert sorted(set(traces)) == ["h_0", "h_1"]
    assert_as_each_by_itself(model, monkeypatch)


def test_gradients_pass_through_shared_traces():
    model = make_model()

    @tf.function(jit_compile=True, autograph=False)
    def program(ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(ids).logits))
        return tape.gradient(loss, [block.ln_1.weight.value for block in model.transformer.h])

    ids = tf.constant(IDS, tf.int32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(ids).logits))
    weights = [block.ln_1.weight.value for block in model.transformer.h]
    for eager, compiled in zip(tape.gradient(loss, weights), program(ids), strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-7)
