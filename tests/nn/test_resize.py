"""Resizing the vocabulary and pruning heads, against the unchanged model and PyTorch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2 import GPT2Config

SHAPE = {"vocab_size": 50, "n_positions": 40, "n_embd": 32, "n_layer": 3, "n_head": 4}
IDS = np.random.default_rng(0).integers(0, 50, (2, 9))


@pytest.fixture(params=[
    pytest.param(True, id="tied"), pytest.param(False, id="untied", marks=pytest.mark.long)
])  # fmt: skip
def model(request):
    config = GPT2Config(**SHAPE, tie_word_embeddings=request.param, initializer_range=0.2,
                        bos_token_id=1, eos_token_id=1)  # fmt: skip
    return tfgpt2.TFGPT2LMHeadModel(config)


def test_new_tokens_start_as_the_mean_of_the_others(model, tmp_path):
    before, table = model(IDS).logits.numpy(), model.get_input_embeddings().weight.numpy()
    assert model.resize_token_embeddings(53, pad_to_multiple_of=8) is model.get_input_embeddings()
    assert model.config.vocab_size == 56
    after = model(IDS).logits.numpy()
    assert after.shape == (2, 9, 56)
    np.testing.assert_allclose(after[..., :50], before, atol=1e-5)
    np.testing.assert_allclose(after[..., 55], before.mean(-1), atol=1e-4)
    np.testing.assert_allclose(model.get_input_embeddings().weight[52], table.mean(0), atol=1e-6)
    model.save_pretrained(tmp_path)
    again = tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(again(IDS).logits, after, atol=1e-5)
    assert model(np.array([[55]])).logits.shape == (1, 1, 56)


def test_shrinking_removes_the_last_tokens(model):
    ids = IDS % 30
    before = model(ids).logits.numpy()
    model.resize_token_embeddings(30)
    np.testing.assert_allclose(model(ids).logits, before[..., :30], atol=1e-5)
    with pytest.raises(ValueError, match=r"\[0, 30\)"):
        model(np.array([[30]]))


def test_random_new_tokens_differ_from_each_other(model):
    model.resize_token_embeddings(52, mean_resizing=False)
    rows = model.get_input_embeddings().weight.numpy()[50:]
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


@pytest.mark.long
def test_a_resized_model_trains_and_generates(model):
    model.generate(IDS, max_new_tokens=2)
    model.compile("adam")
    model.resize_token_embeddings(60)
    assert model.generate(IDS, max_new_tokens=2).shape == (2, 11)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    labels = np.full((2, 9), 59)
    losses = model.fit({"input_ids": IDS, "labels": labels}, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_the_token_table_can_be_replaced(model):
    table = np.random.default_rng(1).normal(size=(45, 32)).astype("float32")
    model.set_input_embeddings(table)
    np.testing.assert_array_equal(model.get_input_embeddings().weight, table)
    assert model(IDS % 45).logits.shape == (2, 9, 45)
    tied = model.get_output_embeddings() is model.get_input_embeddings()
    assert tied == model.config.tie_word_embeddings


@pytest.mark.long
def test_pruning_equals_masking(model, tmp_path):
    mask = np.ones((3, 4), np.float32)
    mask[0, [1, 3]] = 0
    mask[2, 0] = 0
    # Masked and pruned heads add nothing, so the outputs agree.
    expected = model(IDS, head_mask=mask).logits
    model.prune_heads({0: [1], 2: [0]})
    model.prune_heads({0: [1, 3]})
    assert model.config.pruned_heads == {0: [1, 3], 2: [0]}
    np.testing.assert_allclose(model(IDS).logits, expected, atol=1e-5)
    np.testing.assert_allclose(model(IDS, head_mask=mask).logits, expected, atol=1e-5)
    out = model(IDS[:, :5])
    assert [past.shape[2] for past in out.past_key_values] == [2, 4, 3]
    cached = model(IDS[:, 5:], past_key_values=out.past_key_values).logits
    np.testing.assert_allclose(cached, expected[:, 5:], atol=1e-5)
    tokens = model.generate(IDS, max_new_tokens=4, jit_compile=False)
    model.save_pretrained(tmp_path)
    again = tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(again(IDS).logits, expected, atol=1e-5)
    found = again.generate(IDS, max_new_tokens=4, jit_compile=False)
    np.testing.assert_array_equal(found, tokens)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(IDS).logits, expected, atol=1e-5)


def test_a_pruned_model_has_gradients(model):
    model.prune_heads({1: [0, 1, 2]})
    with tf.GradientTape() as tape:
        loss = model(IDS, labels=IDS).loss
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("heads", [{3: [0]}, {0: [4]}, {0: [-1]}, {0: [0, 1, 2, 3]}])
def test_impossible_pruning_raises_and_changes_nothing(model, heads):
    with pytest.raises(ValueError, match=r"Heads are given by block.*Received: block=.*Pass"):
        model.prune_heads({1: [0]} | heads)
    assert model.config.pruned_heads == {}
    assert model.transformer.h[1].attn.heads == 4


@pytest.mark.parametrize("size", [0, -1, 2.5, "ten", True])
def test_impossible_vocabulary_sizes_raise(model, size):
    with pytest.raises(ValueError, match=r"`new_num_tokens` must be.*Received.*len\(tokenizer\)"):
        model.resize_token_embeddings(size)


def test_a_table_of_another_width_raises(model):
    with pytest.raises(ValueError, match=r"\[V, 32\].*Received: shape=\[50, 31\]"):
        model.set_input_embeddings(np.zeros((50, 31)))


def test_parameters_are_counted(model):
    heads = 0 if model.config.tie_word_embeddings else 50 * 32
    block = 12 * 32 * 32 + 13 * 32
    assert model.num_parameters() == 50 * 32 + 40 * 32 + 3 * block + 2 * 32 + heads
