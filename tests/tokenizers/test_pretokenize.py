"""Long texts are split at spaces first, and short ones are not: the pre-tokens are the same."""

import json
import random

import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from tests.tokenizers.conftest import byte_level
from tfgpt2 import TFGPT2Tokenizer
from tfgpt2.tokenizers import pretokenize, segments
from tfgpt2.tokenizers.segments import Rows

# White space of every kind, what stands beside it, and the ends of the printable characters.
ALPHABET = " \n\t\v\r\x08\x0e\x1c\x00\u0085\u00a0\u2003aZé9½'streldvm.!~\x7f日\U0001f600"


def random_texts(seed, count, longest=30):
    rng = random.Random(seed)
    return ["".join(rng.choices(ALPHABET, k=rng.randrange(longest))) for _ in range(count)]


@tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int32)])
def words_of(texts, many_bytes):
    rows = Rows(texts, tf.range(tf.size(texts, tf.int64) + 1))
    parts = pretokenize.distinct_parts(rows, many_bytes)
    again = Rows(tf.gather(parts.distinct, parts.indices), parts.row_splits)
    return pretokenize.split_words(again, has_special=False)


def compare(texts):
    """Returns the number of pre-tokens, which are those of the unsplit texts."""
    short, long = (words_of(tf.constant(texts, tf.string), limit) for limit in (2**30, 0))
    np.testing.assert_array_equal(short.values, long.values)
    np.testing.assert_array_equal(short.row_splits, long.row_splits)
    return len(long.values)


def test_random_texts_have_the_same_words_split_at_spaces_and_not():
    assert sum(compare(random_texts(seed, 300)) for seed in range(10)) > 10_000


@pytest.mark.parametrize("texts", [[], [""], ["", "a b", ""], ["", ""], [" "], ["a "], ["\n\n"]])
def test_empty_and_short_rows(texts):
    compare(texts)


def test_the_parts_are_fewer_than_the_words_of_a_text():
    text = "to be, or not to be\n" * 1000
    rows = Rows(tf.constant([text]), tf.constant([0, 1], tf.int64))
    assert len(pretokenize.distinct_parts(rows).distinct) < 10
    short = Rows(tf.constant([text[:100]]), tf.constant([0, 1], tf.int64))
    assert len(pretokenize.distinct_parts(short).distinct) == 1


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.long)])
def test_every_code_point_beside_spaces(step):
    every = [chr(c) for c in range(0, 0x110000, step) if not 0xD800 <= c < 0xE000]
    assert compare([f"a{c} b {c}\n{c}  {c}\n\n x" for c in every]) > 8 * len(every)


@pytest.mark.parametrize("content", ["<x>", "two words", "a\nb c", " x", "x "])
@pytest.mark.parametrize("flags", [{}, {"rstrip": True}, {"lstrip": True}, {"single_word": True}])
def test_added_tokens_in_long_texts(toy_backend, content, flags):
    backend = tokenizers.Tokenizer.from_str(toy_backend.to_str())
    backend.add_tokens([tokenizers.AddedToken(content, normalized=False, **flags)])
    layer = TFGPT2Tokenizer.from_tokenizer(backend)
    rng = random.Random(content)
    pieces = [content, content, " ", "\n", "a", "two", "words", "  ", "!", "<|endoftext|>", "é"]
    texts = ["".join(rng.choices(pieces, k=rng.randrange(40))) for _ in range(1500)]
    assert sum(len(text.encode()) for text in texts) > 2 * pretokenize._MANY_BYTES
    assert layer.tokenize(texts).to_list() == [one.ids for one in backend.encode_batch(texts)]


def test_long_batches_have_the_ids_of_tokenizers(toy_backend):
    model = tokenizers.models.BPE(toy_backend.get_vocab(), merges_of(toy_backend))
    backend = byte_level(model)
    layer = TFGPT2Tokenizer.from_tokenizer(backend)
    for seed in range(4):
        texts = random_texts(seed, 2000)
        got = layer.tokenize(tf.constant(texts)).to_list()
        assert got == [one.ids for one in backend.encode_batch(texts)]


def merges_of(backend):
    return [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]


def test_valid_texts_stay_and_invalid_bytes_are_replaced():
    rng = random.Random(3)
    choices = [
        0x41,
        0x80,
        0xBF,
        0xC0,
        0xC2,
        0xE0,
        0xED,
        0x9F,
        0xA0,
        0xEF,
        0xF0,
        0x90,
        0xF4,
        0xF5,
        0,
    ]
    for _ in range(3000):
        text = bytes(rng.choices(choices, k=rng.randrange(6)))
        got = segments.valid_utf8(tf.constant([text, b"x"])).numpy().tolist()
        assert got == [text.decode(errors="replace").encode(), b"x"]


def test_valid_utf8_is_what_python_decodes():
    every = b"".join(chr(c).encode() for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    assert tf.strings.regex_full_match(every, segments._VALID)
    for surrogate in range(0xD800, 0xE000, 0x10):
        wrong = chr(surrogate).encode(errors="surrogatepass")
        assert not tf.strings.regex_full_match(wrong, segments._VALID)
