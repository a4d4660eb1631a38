"""Ragged rows of tokens: truncation, end tokens, and padding to batches of one width."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.validation import check_count

LABEL_IGNORED = -100


@dataclasses.dataclass(frozen=True)
class Padding:
    """How the rows of a batch are padded.

    Attributes:
        max_length: Largest width.
        multiple: None pads to `max_length`; a number pads to the longest row, rounded up to a
            multiple of it.
        pad_token_id: Fills shorter rows.

    Raises:
        ValueError: A number is out of range.
    """

    max_length: int
    multiple: int | None
    pad_token_id: int

    def __post_init__(self) -> None:
        check_count("max_length", self.max_length, least=2, optional=False)
        check_count("pad_to_multiple_of", self.multiple, least=1)

    def pad(self, rows: tf.RaggedTensor, fill: int | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Ragged `[B, (T)]`, at most `max_length` wide -> values and mask int32 `[B, T]`."""
        fill = self.pad_token_id if fill is None else fill
        if self.multiple is None:
            values = rows.to_tensor(fill, shape=[None, self.max_length])  # [B, T]
        else:
            values = rows.to_tensor(fill)  # [B, longest]
            longest = tf.maximum(tf.shape(values)[1], 1)
            width = tf.minimum(-(-longest // self.multiple) * self.multiple, self.max_length)
            extra = width - tf.shape(values)[1]
            values = tf.pad(values, [[0, 0], [0, extra]], constant_values=fill)  # [B, T]
        mask = tf.sequence_mask(rows.row_lengths(), tf.shape(values)[1], tf.int32)
        return tf.cast(values, tf.int32), mask

    def completion_labels(
        self, prompts: tf.RaggedTensor, completions: tf.RaggedTensor
    ) -> tf.Tensor:
        """Labels int32 `[B, T]` of prompts followed by completions: only those are scored."""
        ignored = tf.fill(tf.shape(prompts.flat_values), LABEL_IGNORED)
        labels = tf.concat([prompts.with_flat_values(ignored), completions], axis=1)
        return self.pad(labels, fill=LABEL_IGNORED)[0]


def end_token(tokenizer: Any) -> int:
    """The tokenizer's end token.

    Raises:
        ValueError: It has none.
    """
    if tokenizer.eos_token_id is None:
        raise value_error(
            "The tokenizer has no end token.",
            fix="Load it with `eos_token='<|endoftext|>'`, or pass `add_eos=False` where there"
            " is such an option.",
            eos_token_id=None,
        )
    return tokenizer.eos_token_id


def append_token(rows: tf.RaggedTensor, token: int) -> tf.RaggedTensor:
    """Appends a token to each row `[B, (T)]`."""
    return tf.concat([rows, tf.fill([rows.nrows(), 1], tf.cast(token, rows.dtype))], axis=1)


def truncate_pair(
    prompts: tf.RaggedTensor, completions: tf.RaggedTensor, max_length: int
) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Truncates pairs of texts to `max_length` tokens together, the first one on the left.

    Args:
        prompts: Ragged `[B, (P)]`; truncated at the beginning, to at least one token.
        completions: Ragged `[B, (C)]`; truncated at the end if too long by themselves.
        max_length: Most tokens of both.
    """
    some = tf.minimum(prompts.row_lengths(), 1)  # [B]
    completions = _columns(completions, first=tf.zeros_like(some), stop=max_length - some)
    remaining = max_length - completions.row_lengths()  # [B]
    lengths = prompts.row_lengths()
    return _columns(prompts, first=tf.maximum(lengths - remaining, 0), stop=lengths), completions


def _columns(rows: tf.RaggedTensor, first: tf.Tensor, stop: tf.Tensor) -> tf.RaggedTensor:
    """The columns `first <= column < stop`, int64 `[B]`, of each row."""
    owner = rows.value_rowids()
    column = tf.range(tf.size(owner, tf.int64)) - tf.gather(rows.row_starts(), owner)
    keep = (column >= tf.gather(first, owner)) & (column < tf.gather(stop, owner))
    return tf.ragged.boolean_mask(rows, rows.with_values(keep))
