"""Invalid model calls and their error messages: the problem, the value, the fix."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import model_cases as cases
from tfgpt2 import GPT2Config, TFGPT2LMHeadModel, TFGPT2Model

IDS = np.array([[1, 2, 3], [4, 5, 6]])
FLOATS = np.zeros((2, 3, 16), np.float32)


def past(rows=2, length=2, heads=2, size=8):
    return tf.zeros([2, rows, heads, length, size])


BAD = {
    "strings": (lambda m: m(["To be"]), TypeError,
        "`input_ids` holds strings; a model takes token ids. Received: .* Call the tokenizer"),
    "string tensor": (lambda m: m(tf.constant([["a"]])), TypeError, "Call the tokenizer first"),
    "symbolic string": (lambda m: m(keras.Input((), dtype="string")), TypeError,
        "`input_ids` holds strings"),
    "float ids": (lambda m: m(IDS.astype(np.float32)), TypeError,
        "`input_ids` must hold integers. Received: dtype='float32'. Convert them"),
    "float list": (lambda m: m([[0.5, 1.0]]), TypeError, "must hold integers"),
    "float Input": (lambda m: m(keras.Input((None,))), TypeError, "dtype='int32'"),
    "bool ids": (lambda m: m(IDS > 2), TypeError, "must hold integers"),
    "True": (lambda m: m(True), TypeError, "must hold integers"),
    "ragged": (lambda m: m(tf.ragged.constant([[1], [1, 2]])), TypeError,
        "`input_ids` is not a dense tensor.*Received: input_ids='RaggedTensor'. Let the tokeni"),
    "sparse": (lambda m: m(tf.sparse.from_dense(IDS)), TypeError, "not a dense tensor"),
    "uneven lists": (lambda m: m([[1, 2], [3]]), TypeError,
        r"rows have the same length. Received: input_ids=\[\[1, 2\], \[3\]\]. Pad the rows"),
    "object": (lambda m: m(object()), TypeError, "must be an array of numbers"),
    "too large an id": (lambda m: m([[1, 23]]), ValueError,
        r"`input_ids` must be in \[0, 23\), the size of the model's vocabulary. "
        "Received: input_ids=23. Use the tokenizer that belongs to the model"),
    "negative id": (lambda m: m([[1, -1]]), ValueError, "Received: input_ids=-1"),
    "type id": (lambda m: m(IDS, token_type_ids=IDS + 50), ValueError, "`token_type_ids` must be"),
    "position": (lambda m: m(IDS, position_ids=IDS + 20), ValueError,
        r"`position_ids` must be in \[0, 24\), the size of the model's context"),
    "label": (lambda m: m(IDS, labels=IDS - 10), ValueError, "`labels` must be .*labels=-9"),
    "large label": (lambda m: m(IDS, labels=IDS + 20), ValueError, "labels=23"),
    "float labels": (lambda m: m(IDS, labels=IDS / 2), TypeError, "`labels` must hold integers"),
    "label shape": (lambda m: m(IDS, labels=IDS[:, 1:]), ValueError,
        r"`labels` must have the shape of the text, \[2, 3\]. Received: labels='shape \(2, 2\)'"),
    "too long": (lambda m: m(np.ones((1, 25), int)), ValueError,
        "longer than the model's context of 24 tokens. Received: past=0, length=25. Truncate it"),
    "too long with past": (
        lambda m: m(np.ones((2, 4), int), past_key_values=[past(length=21)] * 2), ValueError,
        "Received: past=21, length=4"),
    "too long embeds": (lambda m: m(inputs_embeds=np.zeros((1, 25, 16))), ValueError, "length=25"),
    "one text": (lambda m: m([1, 2, 3]), ValueError,
        r"`input_ids` must have shape \[B, T\]. Received: input_ids='shape \(3,\)'. Add a batch"),
    "a number": (lambda m: m(3), ValueError, r"must have shape \[B, T\]"),
    "no token": (lambda m: m(np.zeros((2, 0), int)), ValueError,
        r"The text is empty.* Received: shape=\[2, 0\]. Begin texts with"),
    "no embedding": (lambda m: m(inputs_embeds=np.zeros((2, 0, 16))), ValueError, "text is empty"),
    "neither": (lambda m: m(), ValueError,
        r"either `input_ids` or `inputs_embeds`. Received: given=\[\]. Pass the tokenizer's"),
    "None": (lambda m: m(None), ValueError, "either `input_ids`"),
    "mask only": (lambda m: m({"attention_mask": IDS}), ValueError, "given=.'attention_mask'"),
    "both": (lambda m: m(IDS, inputs_embeds=FLOATS), ValueError, "either `input_ids`"),
    "unknown keyword": (lambda m: m(IDS, atention_mask=IDS), TypeError,
        r"TFGPT2LMHeadModel has no input 'atention_mask'. Received: (.|\n)* Did you mean 'atten"),
    "unknown key": (lambda m: m({"input_ids": IDS, "length": 3}), TypeError,
        "has no input 'length'. Received: length=3. Known names: attention_mask"),
    "twice": (lambda m: m({"input_ids": IDS}, input_ids=IDS), TypeError,
        "`input_ids` was given twice.*Pass it in the input dict or as a keyword"),
    "long list": (lambda m: m([IDS, IDS, IDS, IDS]), TypeError,
        "input_ids, attention_mask, token_type_ids, in this order. Received: length=4"),
    "too many": (lambda m: m(IDS, *[None] * 20), TypeError, "takes at most 15 inputs"),
    "flag": (lambda m: m(IDS, use_cache="yes"), TypeError,
        "`use_cache` must be True, False or None. Received: use_cache='yes'. Leave it out"),
    "mask width": (lambda m: m(IDS, attention_mask=np.ones((2, 4))), ValueError,
        r"cover the past tokens and the current ones of every row: shape \[2, 3\]. Received: "
        r"attention_mask='shape \(2, 4\)'. Concatenate the mask of the past"),
    "mask width with past": (
        lambda m: m(IDS, attention_mask=np.ones((2, 3)), past_key_values=[past()] * 2), ValueError,
        r"shape \[2, 5\]. Received: attention_mask='shape \(2, 3\)'"),
    "mask rows": (lambda m: m(IDS, attention_mask=np.ones((1, 3))), ValueError, r"shape \[2, 3\]"),
    "mask rank": (lambda m: m(IDS, attention_mask=np.ones(3)), ValueError, r"shape \[2, 3\]"),
    "added mask": (lambda m: m(IDS, attention_mask=np.full((2, 3), -1e4)), ValueError,
        "must hold 1 for tokens and 0 for padding, and nothing else"),
    "string mask": (lambda m: m(IDS, attention_mask=[["a"] * 3] * 2), TypeError, "holds strings"),
    "type shape": (lambda m: m(IDS, token_type_ids=IDS[:, :2]), ValueError,
        "`token_type_ids` must have the shape of the text"),
    "position shape": (lambda m: m(IDS, position_ids=[[0, 1]]), ValueError,
        "`position_ids` must have the shape of the text"),
    "head mask": (lambda m: m(IDS, head_mask=np.ones(3)), ValueError,
        r"`head_mask` must have shape \[2\] or \[2, 2\]. Received: head_mask='shape \(3,\)'. Give"),
    "embeds width": (lambda m: m(inputs_embeds=np.zeros((2, 3, 5))), ValueError,
        r"`inputs_embeds` must have shape \[B, T, 16\]. Received: .*\(2, 3, 5\).* Look ids up"),
    "past entries": (lambda m: m(IDS, past_key_values=[past()]), ValueError,
        "one entry for each of the 2 blocks. Received: past_key_values='list of 1'. Pass the"),
    "past number": (lambda m: m(IDS, past_key_values=3), ValueError, "past_key_values=3"),
    "past lengths": (lambda m: m(IDS, past_key_values=[past(), past(length=3)]), ValueError,
        r"shape \[2, 2, 2, 8\] \(rows, heads, past tokens, head size\). Received: shape=\[2, 2, 3"),
    "past rows": (lambda m: m(IDS, past_key_values=[past(rows=3)] * 2), ValueError, r"=\[3, 2, 2"),
    "past heads": (lambda m: m(IDS, past_key_values=[past(heads=4)] * 2), ValueError, "head size"),
    "past rank": (lambda m: m(IDS, past_key_values=[tf.zeros([2, 3])] * 2), ValueError,
        "`past_key_values` must hold keys and values"),
    "past None": (lambda m: m(IDS, past_key_values=[past(), None]), ValueError,
        r"An entry of `past_key_values` must be a tensor \[2, B, N, S, H\] or a pair"),
    "encoder": (lambda m: m(IDS, encoder_hidden_states=FLOATS), ValueError,
        "need a model with cross-attention.*add_cross_attention=False.*Build it from GPT2Config"),
    "encoder mask": (lambda m: m(IDS, encoder_attention_mask=IDS), ValueError,
        "Encoder inputs need"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_invalid_calls_raise(name, load_case):
    call, error, text = BAD[name]
    with pytest.raises(error, match=text):
        call(load_case(cases.CASES["plain"]))


CROSS = {
    "states width": ({"encoder_hidden_states": np.zeros((2, 4, 5))},
        r"`encoder_hidden_states` must have shape \[2, None, 16\]. Received: .*\(2, 4, 5\)"),
    "states rows": ({"encoder_hidden_states": np.zeros((3, 4, 16))}, "one row of encoder states"),
    "mask": ({"encoder_hidden_states": np.zeros((2, 4, 16)), "encoder_attention_mask": IDS * 0},
        r"`encoder_attention_mask` must have shape \[2, 4\] or \[2, 3, 4\]"),
    "mask values": ({"encoder_hidden_states": FLOATS, "encoder_attention_mask": IDS},
        "must hold 1 for tokens"),
    "mask only": ({"encoder_attention_mask": IDS}, "encoder_hidden_states=None"),
}  # fmt: skip


@pytest.mark.parametrize("name", CROSS)
def test_invalid_encoder_inputs_raise(name, load_case):
    inputs, text = CROSS[name]
    with pytest.raises(ValueError, match=text):
        load_case(cases.CASES["cross"])(IDS, **inputs)


def test_every_error_has_three_parts(load_case):
    for call, _, _ in BAD.values():
        with pytest.raises((TypeError, ValueError)) as caught:
            call(load_case(cases.CASES["plain"]))
        message = str(caught.value)
        if message.startswith("Exception encountered"):  # Keras' frame around errors in `call`
            message = message.split("\x1b[1m")[1].split("\x1b[0m")[0]
        problem, received, fix = message.partition(" Received: ")
        assert problem.endswith(".") and received and fix[-1] in ".?", message
        assert len(message) < 700


def test_shapes_are_checked_in_graphs_too(load_case):
    model = load_case(cases.CASES["plain"])
    graph = tf.function(lambda ids, mask: model(ids, attention_mask=mask).logits)
    with pytest.raises(ValueError, match=r"shape \[2, 3\]"):
        graph(IDS, np.ones((2, 4)))
    # Sizes that are unknown while a graph is traced are left to TensorFlow.
    assert graph(np.ones((2, 3), int), np.ones((2, 3))).shape == (2, 3, 23)


def test_the_bare_model_takes_no_labels(load_case):
    with pytest.raises(TypeError, match="TFGPT2Model has no input 'labels'"):
        load_case(cases.CASES["plain"], TFGPT2Model)(IDS, labels=IDS)


def test_an_empty_batch_gives_empty_results(load_case):
    out = load_case(cases.CASES["plain"])(np.zeros((0, 3), int), output_hidden_states=True)
    assert out.logits.shape == (0, 3, 23) and out.hidden_states[2].shape == (0, 3, 16)
    assert out.past_key_values[0].shape == (2, 0, 2, 3, 8)


def test_a_row_of_padding_stays_finite(load_case):
    mask = np.array([[0, 0, 0], [1, 1, 1]])
    model = load_case(cases.CASES["plain"])
    logits = model(IDS, attention_mask=mask).logits
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[1], model(IDS[1:]).logits[0], atol=1e-5)


def test_a_model_needs_a_configuration():
    with pytest.raises(TypeError, match="made from a GPT2Config. Received: config='gpt2'. To load"):
        TFGPT2LMHeadModel("gpt2")
    config = GPT2Config(**cases.BASE)
    config.n_head = 5
    with pytest.raises(ValueError, match="`n_head` must divide `n_embd`"):
        TFGPT2LMHeadModel(config)
    with pytest.raises(ValueError, match="activation_function.*Did you mean 'gelu_new'"):
        TFGPT2LMHeadModel(GPT2Config(**cases.BASE, activation_function="gelu_neww"))
