"""The tables of the explanations are read from the pages and compared with the code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from tfgpt2 import GPT2Config, TFGPT2LMHeadModel, TFGPT2Tokenizer
from tfgpt2.generation.buckets import default_buckets, round_up
from tfgpt2.generation.logits.random import gumbel
from tfgpt2.nn.kv_cache import compact, rollback
from tfgpt2.tokenizers import pretokenize, segments

DOCS = Path(__file__).resolve().parent.parent / "docs"
DRAWN = str.maketrans({"·": " ", "↵": "\n", "⇥": "\t"})


def table(page: str, name: str) -> list[list[str]]:
    """The rows of a table, without its heading."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- figure: {name} -->\n\n((?:\|.*\n)+)", text)
    assert found, f"{page} has no figure {name!r}"
    lines = found[1].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def spans(cell: str) -> list[str]:
    """The code spans of a cell, with the symbols for whitespace replaced by it."""
    return [one.translate(DRAWN) for one in re.findall(r"`([^`]*)`", cell)]


# The tokenizer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("row", table("explanations/tokenizer.md", "cutting"))
def test_cutting(row):
    (text,), (marked,), words = map(spans, row)
    once = tf.strings.regex_replace(text, pretokenize._LOOK_AHEAD, rb"\1" + segments.CUT + rb"\2")
    assert once.numpy().replace(b"\xff", "‖".encode()).decode() == marked
    rows = segments.Rows(tf.constant([text]), tf.constant([0, 1], tf.int64))
    found = pretokenize.split_words(rows, has_special=False).values.numpy()
    assert [word.decode() for word in found] == words
    other = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in other] == words


def test_merging():
    tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    for word, tokens, ids in table("explanations/tokenizer.md", "merging"):
        found = tokenizer.tokenize(spans(word)[0]).numpy().tolist()
        assert found == [int(one) for one in ids.split()]
        drawn = [one.encode().decode("unicode_escape").encode("latin-1") for one in spans(tokens)]
        assert [tokenizer.token_bytes[one] for one in found] == drawn


# The cache -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    tf.random.set_seed(0)
    return TFGPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    )


def ids(*shape: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(sum(shape)).integers(0, 50, shape), tf.int32)


def drawn(page: str, name: str) -> list[list[int | None]]:
    """A table of columns: positions, None where a column is masked for the row."""
    return [[None if c == "·" else int(c) for c in row[1:]] for row in table(page, name)]


def seen(cache) -> list[list[int | None]]:
    """The same for a cache: the valid columns of a row are numbered in order."""
    valid = cache.valid.numpy()
    number = np.cumsum(valid, axis=1) - 1
    return [
        [int(n) if v else None for n, v in zip(*row, strict=True)]
        for row in zip(number, valid, strict=True)
    ]


def read(model, cache, tokens):
    return model.decode_step(tokens, tf.ones_like(tokens, tf.bool), cache, in_place=False)


def alone(cache, row):
    return tf.nest.map_structure(lambda x: x[row : row + 1] if x.shape.rank else x, cache)


def prefilled(model, columns):
    mask = tf.constant([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    return model.prefill(ids(2, 5) * mask, mask, columns=tf.constant(columns))[1]


def test_prefill(model):
    cache = prefilled(model, 8)
    for token in tf.unstack(ids(2, 2), axis=1):
        cache = read(model, cache, token[:, None])[1]
    assert seen(cache) == drawn("explanations/cache.md", "prefill")
    assert int(cache.column) == 7 and cache.positions.numpy().tolist() == [5, 7]


def test_holes_and_compaction(model):
    start = read(model, prefilled(model, 12), ids(2, 2))[1]
    draft_tokens = ids(2, 4)
    kept = tf.constant([1, 3])
    cache = rollback(read(model, start, draft_tokens)[1], start, kept)
    assert seen(cache) == drawn("explanations/cache.md", "holes")
    assert int(cache.column) == 10 and cache.positions.numpy().tolist() == [6, 10]
    closed = compact(cache)
    assert seen(closed) == drawn("explanations/cache.md", "compact")
    assert closed.positions.numpy().tolist() == [6, 10]
    # Plain decoding gives the same logits of the next token, row by row.
    token = ids(2, 1)
    logits = [read(model, one, token)[0].numpy() for one in (cache, closed)]
    for row, count in enumerate(kept.numpy()):
        plain = alone(start, row)
        plain = read(model, plain, draft_tokens[row : row + 1, :count])[1]
        expected = read(model, plain, token[row : row + 1])[0].numpy()[0]
        for found in logits:
            np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_prefix(model):
    prefix = model.prefix(ids(1, 3))
    mask = tf.constant([[0, 0, 1, 1], [1, 1, 1, 1]])
    cache = model.prefill(ids(2, 4) * mask, mask, columns=tf.constant(4), prefix=prefix)[1]
    assert seen(cache) == drawn("explanations/cache.md", "prefix")
    assert cache.positions.numpy().tolist() == [5, 7]


# Shapes and random numbers ---------------------------------------------------------------------


def test_buckets():
    sizes = default_buckets(256)
    for tokens, bucket in table("explanations/one-program.md", "buckets"):
        low, high = (int(one) for one in tokens.split(" to "))
        assert {int(round_up(tf.constant(n), sizes)) for n in (low, high)} == {int(bucket)}


def test_noise():
    for seed, step, *values in table("explanations/random-numbers.md", "noise"):
        found = gumbel(tf.constant([int(seed)], tf.int64), tf.constant([int(step)]), 1024)
        assert [f"{one:.3f}" for one in found.numpy()[0, :4]] == values
