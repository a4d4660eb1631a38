"""Processors that transformers has for PyTorch only give what it gives."""

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

IDS = np.array([[1, 2, 3, 1, 2], [4, 4, 4, 4, 4], [5, 0, 6, 5, 0], [7, 7, 1, 2, 3]])
PROMPTS = np.array([[1, 2, 6, 4, 4, 0], [5, 0, 3, 1, 2, 3]])  # each for two of the rows
SCORES = np.random.RandomState(0).randn(4, 8).astype(np.float32)


def call_both(name, *arguments, columns=5):
    """The scores of ours, on padded ids too, and theirs."""
    tensors = [torch.tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
    ours = getattr(tfgpt2, name)(*arguments)
    found = ours(tf.constant(IDS[:, :columns]), tf.constant(SCORES)).numpy()
    padded = tf.pad(tf.constant(IDS[:, :columns]), [[0, 0], [0, 3]], constant_values=6)
    np.testing.assert_array_equal(ours(padded, tf.constant(SCORES), columns), found)
    theirs = getattr(hf, name, None) or getattr(hf.generation, name)
    expected = theirs(*tensors)(torch.tensor(IDS[:, :columns]), torch.tensor(SCORES))
    return found, expected.numpy()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sequences_of_the_prompt(size):
    for columns in (1, 2, 5):
        name = "EncoderNoRepeatNGramLogitsProcessor"
        found, expected = call_both(name, size, PROMPTS, columns=columns)
        np.testing.assert_array_equal(found, expected)
    assert np.isinf(found).any() and np.isfinite(found).any()
    np.testing.assert_array_equal(*call_both(name, size, PROMPTS[0]))


def test_tokens_of_the_prompt():
    for penalty in (2.0, 0.5):
        prompts = np.repeat(PROMPTS, 2, axis=0)
        found, expected = call_both("EncoderRepetitionPenaltyLogitsProcessor", penalty, prompts)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found != SCORES).any()


@pytest.mark.parametrize("start, ends", [(1, [3]), (1, [3, 5]), (3, 3), (9, 3)])
def test_likelier_ends(start, ends):
    found, expected = call_both("ExponentialDecayLengthPenalty", (start, 1.5), ends, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found != SCORES).any() == (start < 4)


def test_wrong_values():
    with pytest.raises(ValueError, match="`encoder_ngram_size` must be above 0"):
        tfgpt2.EncoderNoRepeatNGramLogitsProcessor(0, PROMPTS)
    with pytest.raises(ValueError, match="`penalty` must be above 0"):
        tfgpt2.EncoderRepetitionPenaltyLogitsProcessor(-1.0, PROMPTS)
