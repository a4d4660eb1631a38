"""The forms of a model call, which all give the same result."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import model_cases as cases
from tfgpt2 import GPT2Config, TFGPT2LMHeadModel, TFGPT2Model
from tfgpt2.outputs import ModelOutput

PLAIN = cases.CASES["plain"]
IDS = cases.inputs(PLAIN)["input_ids"]
MASK = cases.inputs(cases.CASES["right_padded"])["attention_mask"]
TYPES = cases.inputs(cases.CASES["token_types"])["token_type_ids"]


@pytest.fixture
def model(load_case):
    return load_case(PLAIN)


@pytest.fixture
def expected(model):
    return model(input_ids=tf.constant(IDS, tf.int32)).logits.numpy()


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m(tf.constant(IDS)),
        lambda m: m(IDS),
        lambda m: m(IDS.tolist()),
        lambda m: m(tuple(map(tuple, IDS.tolist()))),
        lambda m: m(IDS.astype(np.int8)),
        lambda m: m(IDS.astype(np.uint16)),
        lambda m: m([tf.constant(row) for row in IDS]),
        lambda m: m({"input_ids": IDS}),
        lambda m: m({"input_ids": IDS, "attention_mask": None}),
        lambda m: m([IDS]),
        lambda m: m((IDS, np.ones_like(IDS))),
        lambda m: m(IDS, attention_mask=np.ones(IDS.shape, bool)),
        lambda m: m(IDS, attention_mask=np.ones(IDS.shape, np.float32)),
        lambda m: m(IDS, None, np.ones_like(IDS)),
        lambda m: m(inputs_embeds=m.transformer.wte(IDS).numpy().tolist()),
        lambda m: m(IDS, position_ids=np.arange(IDS.shape[1])),
        lambda m: m(IDS, past_key_values=[None, None]),
        lambda m: m(IDS, head_mask=[1, 1]),
        lambda m: m(IDS, head_mask=[[1, 1], [1, 1]]),
    ],
)
def test_forms(call, model, expected):
    np.testing.assert_allclose(call(model).logits, expected, atol=1e-6)


def test_list_in_documented_order(model):
    named = model(IDS, attention_mask=MASK, token_type_ids=TYPES).logits
    np.testing.assert_array_equal(model([IDS, MASK, TYPES]).logits, named)
    assert np.abs(named - model(IDS).logits).max() > 0.01


def test_leading_axes(model, expected):
    deep, mask = IDS.reshape(2, 1, 1, -1), np.ones((2, 1, 1, IDS.shape[1]))
    out = model(deep, labels=deep, attention_mask=mask, output_hidden_states=True)
    assert out.logits.shape == (2, 1, 1, *expected.shape[1:])
    assert out.hidden_states[0].shape == (2, 1, 1, IDS.shape[1], 16)
    np.testing.assert_allclose(out.logits[:, 0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(out.loss, model(IDS, labels=IDS).loss, rtol=1e-6)


def test_results(model):
    out = model(IDS, labels=IDS)
    assert list(out) == ["loss", "logits", "past_key_values"]
    assert out[0] is out.loss and out[1] is out["logits"] and out[:2] == (out.loss, out.logits)
    as_tuple = model(IDS, labels=IDS, return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == 3
    np.testing.assert_array_equal(as_tuple[1], out.logits)
    assert list(model(IDS, use_cache=False)) == ["logits"]
    optional = model(IDS, output_attentions=True, output_hidden_states=True)
    assert len(optional.attentions) == 2 and len(optional.hidden_states) == 3
    assert optional.cross_attentions is None


def test_configuration_decides_when_the_call_does_not():
    config = GPT2Config(**cases.BASE, use_cache=False, output_attentions=True, return_dict=False)
    attentions = TFGPT2Model(config)(IDS)[1]
    assert attentions[0].shape == (2, 2, 7, 7)
    named = TFGPT2Model(config)(IDS, return_dict=True, output_attentions=False)
    assert list(named) == ["last_hidden_state"]


def test_functional(model, expected):
    ids = keras.Input((None,), dtype="int32")
    mask = keras.Input((None,), dtype="int32")
    joined = keras.Model([ids, mask], model({"input_ids": ids, "attention_mask": mask})["logits"])
    np.testing.assert_allclose(joined([IDS, np.ones_like(IDS)]), expected, atol=1e-6)
    assert joined.output_shape == (None, None, 23)
    # A separate model: Keras 3.15 expects the number of results of the first symbolic call.
    other = TFGPT2LMHeadModel(model.config)
    hidden = keras.Model(ids, other(ids, output_hidden_states=True).hidden_states[-1])
    assert hidden(IDS).shape == (2, 7, 16)


def test_functional_saves_and_loads(model, expected, tmp_path):
    ids = keras.Input((None,), dtype="int32")
    joined = keras.Model(ids, keras.layers.Softmax()(model(ids)["logits"]))
    joined.save(tmp_path / "joined.keras")
    again = keras.models.load_model(tmp_path / "joined.keras")
    np.testing.assert_array_equal(again(IDS), joined(IDS))


@pytest.mark.long
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.long)])
def test_tf_function(model, expected, jit):
    spec = tf.TensorSpec([None, None], tf.int32)
    call = tf.function(lambda ids: model(ids, labels=ids), [spec], jit_compile=jit)
    out = call(tf.constant(IDS, tf.int32))
    assert isinstance(out, ModelOutput) and list(out) == ["loss", "logits", "past_key_values"]
    np.testing.assert_allclose(out.logits, expected, atol=1e-5)
    assert call(tf.constant(IDS[:1, :3], tf.int32)).logits.shape == (1, 3, 23)


def test_unknown_rank(model, expected):
    call = tf.function(lambda ids: model(ids).logits, [tf.TensorSpec(None, tf.int32)])
    np.testing.assert_allclose(call(tf.constant(IDS, tf.int32)), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["past_masked", "cross_masked", "token_types", "upcast"])
def test_xla_gives_the_same(name, load_case):
    case = cases.CASES[name]
    model, given = load_case(case), cases.split_calls(case, cases.inputs(case))
    past = None if not case.past else model(**given[0]).past_key_values
    tensors = {key: tf.constant(value) for key, value in given[-1].items()}
    call = tf.function(
        lambda tensors, past: model(**tensors, past_key_values=past).logits, jit_compile=True
    )
    eager = model(**tensors, past_key_values=past).logits
    real = cases.valid_tokens(case)
    np.testing.assert_allclose(call(tensors, past)[real], eager[real], atol=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "mixed_float16", "float16"])
def test_dtype_policies(dtype, model, expected):
    half = TFGPT2LMHeadModel(model.config, dtype=dtype)
    half.set_weights(model.get_weights())
    out = half(IDS, labels=IDS, output_hidden_states=True)
    kind = dtype.removeprefix("mixed_")
    assert out.logits.dtype == out.loss.dtype == tf.float32
    assert out.hidden_states[-1].dtype.name == out.past_key_values[0].dtype.name == kind
    assert {weight.dtype for weight in half.weights} == {
        "float32" if dtype.startswith("mixed") else kind
    }
    assert np.abs(out.logits - expected).max() < (0.3 if kind == "bfloat16" else 0.05)
    with_past = half(IDS[:, 4:], past_key_values=half(IDS[:, :4]).past_key_values).logits
    assert np.abs(with_past - expected[:, 4:]).max() < (0.3 if kind == "bfloat16" else 0.05)


def test_keras_file(model, expected, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(IDS).logits, model(IDS).logits)
    assert again.config == model.config


def test_from_config(model):
    for again in (
        TFGPT2LMHeadModel.from_config(model.config),
        TFGPT2LMHeadModel.from_config(model.get_config()),
    ):
        assert again.config == model.config and again.config is not model.config
        assert again.num_parameters() == model.num_parameters() == 7344
    assert TFGPT2LMHeadModel.from_config(TFGPT2LMHeadModel(model.config, dtype="bfloat16")
                                         .get_config()).dtype_policy.name == "bfloat16"  # fmt: skip


def test_dropout_is_applied_in_training_only():
    model = TFGPT2LMHeadModel(GPT2Config(**cases.BASE, resid_pdrop=0.5, attn_pdrop=0.5))
    still = model(IDS).logits
    np.testing.assert_array_equal(model(IDS, training=False).logits, still)
    assert np.abs(model(IDS, training=True).logits - still).max() > 1e-4


def test_fresh_weights():
    config = GPT2Config(n_layer=8, n_embd=64, n_head=2, vocab_size=500, initializer_range=0.1)
    model = TFGPT2LMHeadModel(config)
    deviation = {key.rpartition("transformer/")[2]: float(np.std(weight))
              for key, weight in ((w.path, w.numpy()) for w in model.weights)}  # fmt: skip
    assert abs(deviation["wte/weight"] - 0.1) < 0.01
    assert abs(deviation["h_3/attn/c_attn/weight"] - 0.1) < 0.01
    # GPT-2 scales projections into the residual stream by the square root of its branches.
    assert abs(deviation["h_3/attn/c_proj/weight"] - 0.1 / 4) < 0.005
    assert abs(deviation["h_3/mlp/c_proj/weight"] - 0.1 / 4) < 0.005
    assert deviation["h_3/ln_1/weight"] == deviation["h_3/attn/c_attn/bias"] == 0
