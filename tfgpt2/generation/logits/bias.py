"""Biased sequences: token sequences that a row favours, avoids or must not complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation.buckets import default_buckets
from tfgpt2.generation.logits.base import LogitsProcessor, ProcessorContext
from tfgpt2.generation.logits.history import OUTSIDE, history_end
from tfgpt2.generation.logits.id_lists import check_ids, check_list, depth, per_row
from tfgpt2.generation.logits.vocab_ops import sum_by_id
from tfgpt2.generation.options import Option
from tfgpt2.nn.attention import MASK_VALUE
from tfgpt2.nn.kv_cache import resize_axis

# Tokens of a sequence, and sequences of a row; a program is compiled for each size that occurs.
LONGEST_SEQUENCE = 256
MOST_SEQUENCES = 4096
_WIDTHS = (1, 2, 4, 8, *default_buckets(LONGEST_SEQUENCE))
_COUNTS = (1, 4, *default_buckets(MOST_SEQUENCES))


class SequenceBiases(NamedTuple):
    """Token sequences of each row and their biases.

    Attributes:
        ids: int32 `[B, Q, W]`, each sequence against the right edge, -1 before it; a sequence
            of -1 only is none.
        bias: float32 `[B, Q]`, added to a sequence's last token; `MASK_VALUE` rules it out.
    """

    ids: tf.Tensor
    bias: tf.Tensor


def lay_out_biases(rows: Sequence[Mapping[tuple[int, ...], float]]) -> SequenceBiases:
    """Lays out each row's sequences and their biases; Python, so outside the compiled core.

    Number and length are padded to a few sizes, so that few requests ask for a new program.

    Args:
        rows: For each row, from a sequence of one or more ids to its bias; minus infinity becomes
            `MASK_VALUE`, infinity `-MASK_VALUE`.

    Raises:
        ValueError: A sequence is empty or too long, or a row has too many.

    Example:
        >>> biases = lay_out_biases([{(5,): -1.0, (1, 2): 2.0}])
        >>> biases.ids.numpy().tolist()
        [[[-1, 5], [1, 2], [-1, -1], [-1, -1]]]
        >>> biases.bias.numpy().tolist()
        [[-1.0, 2.0, 0.0, 0.0]]
    """
    lengths = [len(sequence) for row in rows for sequence in row]
    if min(lengths, default=1) < 1 or max(lengths, default=1) > LONGEST_SEQUENCE:
        raise value_error(
            f"A biased sequence has 1 to {LONGEST_SEQUENCE} tokens.",
            fix="Leave out empty sequences and shorten long ones.",
            lengths=sorted(set(lengths)),
        )
    most = max((len(row) for row in rows), default=0)
    if most > MOST_SEQUENCES:
        raise value_error(
            f"A row has at most {MOST_SEQUENCES} biased sequences.",
            fix="Pass fewer.",
            sequences=most,
        )
    width = next(size for size in _WIDTHS if size >= max(lengths, default=1))
    number = next(size for size in _COUNTS if size >= most)
    ids = np.full([len(rows), number, width], -1, np.int32)  # [B, Q, W]
    bias = np.zeros([len(rows), number], np.float32)  # [B, Q]
    for row, biases in enumerate(rows):
        for place, (sequence, value) in enumerate(biases.items()):
            ids[row, place, width - len(sequence) :] = sequence
            bias[row, place] = min(max(value, MASK_VALUE), -MASK_VALUE)
    return SequenceBiases(tf.constant(ids), tf.constant(bias))


def join_biases(one: SequenceBiases, two: SequenceBiases) -> SequenceBiases:
    """Gives each row the sequences of both.

    Example:
        >>> biases = [lay_out_biases([{(5,): -1.0}]), lay_out_biases([{(1, 2): 2.0}])]
        >>> join_biases(*biases).ids.numpy().tolist()
        [[[-1, 5], [1, 2]]]
    """
    width = tf.maximum(tf.shape(one.ids)[2], tf.shape(two.ids)[2])
    ids = [resize_axis(x.ids, 2, width, filler=-1, at_end=False) for x in (one, two)]
    return SequenceBiases(tf.concat(ids, axis=1), tf.concat([one.bias, two.bias], axis=1))


def bad_word_biases(
    words: Sequence[Sequence[int]], eos: Sequence[int] = ()
) -> dict[tuple[int, ...], float]:
    """Turns words that must not appear into biases for `lay_out_biases`.

    Args:
        words: Sequences of ids.
        eos: End tokens; a word that is nothing but one of them is left out, for a text must end.

    Source: transformers' `NoBadWordsLogitsProcessor`.

    Example:
        >>> bad_word_biases([[7], [1, 7], [2]], eos=[7])
        {(1, 7): -1e+30, (2,): -1e+30}
    """
    return {tuple(word): MASK_VALUE for word in words if len(word) != 1 or word[0] not in eos}


def add_sequence_bias(
    logits: tf.Tensor, tokens: tf.Tensor, written: tf.Tensor, biases: SequenceBiases
) -> tf.Tensor:
    """Adds a bias to the last token of each sequence whose beginning ends the history.

    A sequence of one token is always biased; two that end in the same token add up.

    Args:
        logits: float32 `[B, V]`.
        tokens: int32 `[B, S]`.
        written: bool `[B, S]`, one run of columns per row: its history.
        biases: Each row's sequences.

    Returns:
        float32 `[B, V]`.

    Source: transformers' `SequenceBiasLogitsProcessor`.

    Example:
        >>> biases = lay_out_biases([{(5,): -1.0, (1, 2): 2.0}])
        >>> tokens, written = tf.constant([[0, 1]]), tf.constant([[True, True]])
        >>> add_sequence_bias(tf.zeros([1, 6]), tokens, written, biases).numpy().tolist()
        [[0.0, 0.0, 2.0, 0.0, 0.0, -1.0]]
    """
    before = tf.shape(biases.ids)[2] - 1
    column = (
        history_end(written)[:, None] - before + tf.range(before)
    )  # [B, W - 1], the last tokens
    held = tf.where(written, tokens, OUTSIDE)  # [B, S]
    tail = tf.gather(held, tf.maximum(column, 0), batch_dims=1)
    tail = tf.where(column >= 0, tail, OUTSIDE)[:, None]  # [B, 1, W - 1]
    beginning = biases.ids[:, :, :-1]  # [B, Q, W - 1]
    match = tf.reduce_all((beginning == tail) | (beginning == -1), axis=-1)  # [B, Q]
    last = tf.where(match & (biases.bias != 0), biases.ids[:, :, -1], -1)
    total = sum_by_id(last, tf.maximum(biases.bias, MASK_VALUE), logits.shape[-1])  # [B, V]
    return tf.where(total != 0, logits + total, logits)


def read_biases(value: Any, rows: int, vocab_size: int) -> list[dict[tuple[int, ...], float]]:
    """Reads `{(id, ...): bias}` or `[[[id, ...], bias], ...]`, or one such value per row."""
    if isinstance(value, Mapping):
        lists = [value]
    elif all(map(_is_row, check_list("sequence_bias", value, value))):
        lists = per_row("sequence_bias", value, rows, -1)
    else:
        lists = [value]
    pairs = [
        list(one.items()) if isinstance(one, Mapping) else check_list("sequence_bias", one, value)
        for one in lists
    ]
    made: list[dict[tuple[int, ...], float]] = []
    for row in pairs:
        made.append({})
        for pair in row:
            try:
                sequence, bias = pair
                bias = float(bias)
            except (TypeError, ValueError, OverflowError):
                sequence, bias = (), float("nan")
            if np.isnan(bias):
                raise value_error(
                    "`sequence_bias` must pair sequences of ids with numbers.",
                    fix="For example {(262,): -2.0, (11, 290): 1.5}.",
                    sequence_bias=value,
                )
            made[-1][check_ids("sequence_bias", sequence, vocab_size, value)] = bias
    return made


def _is_row(one: Any) -> bool:
    """Whether an entry of a list is a row's biases, and not a pair of a sequence and a bias."""
    if isinstance(one, Mapping):
        return True
    return depth(one) > 0 and len(one) > 0 and depth(one[0]) != 1


class SequenceBias(LogitsProcessor):
    """See `add_sequence_bias`."""

    option = Option("sequence_bias", None, "yes, per row as a list; also applies to a sequence at"
                    " the beginning of the text, as in transformers 5")  # fmt: skip

    skips = True

    def is_asked(self, config: Any) -> bool:
        """Whether there is a sequence."""
        return bool(getattr(config, self.option.name))

    def values(self, config: Any, rows: int, vocab_size: int) -> SequenceBiases:
        """See `LogitsProcessor`."""
        return lay_out_biases(read_biases(config.sequence_bias, rows, vocab_size))

    def active(self, value: SequenceBiases, context: ProcessorContext) -> tf.Tensor:
        """The rows that have a sequence."""
        return tf.reduce_any(value.bias != 0, axis=1)

    def __call__(
        self, scores: tf.Tensor, value: SequenceBiases, context: ProcessorContext
    ) -> tf.Tensor:
        return add_sequence_bias(scores, context.input_ids, context.mask, value)


class BadWords(SequenceBias):
    """Forbids sequences; an end token alone is not forbidden, since a text must end."""

    option = Option("bad_words_ids", None, "yes, per row as a list of such lists")

    def values(self, config: Any, rows: int, vocab_size: int) -> SequenceBiases:
        """See `LogitsProcessor`."""
        name, value = self.option.name, config.bad_words_ids
        checked = [
            [check_ids(name, word, vocab_size, value) for word in check_list(name, words, value)]
            for words in per_row(name, value, rows, 2)
        ]
        return lay_out_biases([bad_word_biases(words, config.eos_ids) for words in checked])
