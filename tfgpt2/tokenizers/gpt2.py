"""`TFGPT2Tokenizer`: the layer whose output is a model's input, named as in transformers.

`B` is the number of texts, `C` of texts in a group, `T` of columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.arguments import as_text
from tfgpt2.tokenizers.layer import Tokenizer
from tfgpt2.tokenizers.registry import FAMILIES
from tfgpt2.validation import check_count, check_names

_OPTIONS = ("max_length", "pad_token_id", "pad_to_multiple_of", "ragged")


@keras.saving.register_keras_serializable(package="tfgpt2")
class TFGPT2Tokenizer(Tokenizer):
    """Tokenizer whose output is a model's input, named as in transformers.

    Called on text, it returns `{"input_ids": [B, T], "attention_mask": [B, T]}`, int32. One text
    (a `str` or a scalar tensor) is a batch of one, `[1, T]`, ready for a model; texts `[B, C]` give
    `[B, C, T]`. `tokenize` and `detokenize` keep the rank of their input.

    Args:
        vocab: Token to id, in the characters of `vocab.json`; None for a family whose `model` holds
            it.
        merges: Pairs of tokens, as tuples or as `"left right"`, the most urgent first; None for a
            family without merges.
        max_length: Truncates or pads all rows to this many tokens; None pads to the longest row of
            the batch. The argument of a call wins.
        pad_token_id: Id that pads shorter rows; by default that of `pad_token`, else of
            `eos_token`, else 0. The mask never depends on it.
        pad_to_multiple_of: Rounds the number of columns up to a multiple, where `max_length` does
            not set it.
        ragged: Returns ragged `[B, (T)]` rows, truncated but not padded.
        **options: `family` (a name in `registry.FAMILIES`; by default byte-level BPE), and the
            options of `Tokenizer` and of the family, see `ByteLevelBPETokenizer`.

    Raises:
        TypeError: There is no such option.
        ValueError: An option's value is not allowed, or the vocabulary and the merges do not fit.

    Example:
        >>> tokenizer = TFGPT2Tokenizer({"a": 0, "b": 1, "ab": 2}, ["a b"], padding_side="left")
        >>> batch = tokenizer(["abba", "b"])
        >>> batch["input_ids"].numpy().tolist(), batch["attention_mask"].numpy().tolist()
        ([[2, 1, 0], [0, 0, 1]], [[1, 1, 1], [0, 0, 1]])
    """

    families = FAMILIES
    own_options = (*Tokenizer.own_options, *_OPTIONS)

    def __init__(
        self,
        vocab: Mapping[str, int] | None = None,
        merges: Iterable[str | tuple[str, str]] | None = None,
        max_length: int | None = None,
        pad_token_id: int | None = None,
        *,
        pad_to_multiple_of: int | None = None,
        ragged: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*((vocab,) if merges is None else (vocab, merges)), **options)
        check_count("max_length", max_length, least=1)
        check_count("pad_token_id", pad_token_id, least=0)
        check_count("pad_to_multiple_of", pad_to_multiple_of, least=1)
        if max_length is not None:
            self._check_room(max_length)
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.ragged = bool(ragged)
        self._pad_token_id = pad_token_id

    @property
    def pad_token_id(self) -> int:
        """Id that pads shorter rows."""
        return super().pad_token_id if self._pad_token_id is None else self._pad_token_id

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal tokenizer, vocabulary included."""
        return super().get_config() | {
            "max_length": self.max_length,
            "pad_token_id": self._pad_token_id,
            "pad_to_multiple_of": self.pad_to_multiple_of,
            "ragged": self.ragged,
        }

    def call(
        self, x: Any, max_length: int | None = None, training: bool | None = None, **unknown: Any
    ) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        """Tokenizes texts for a model.

        Args:
            x: Text, list of texts, or string tensor `[]`, `[B]` or `[B, C]`; in a ragged `[B, (C)]`
                tensor, missing texts count as empty ones.
            max_length: Number of columns, in place of the layer's own.
            training: Ignored; part of the interface of Keras layers.
            **unknown: None allowed; named in the error.

        Returns:
            `input_ids` and `attention_mask` (1 for a token, 0 for padding), int32.

        Raises:
            TypeError: The input is not text, or there is no such argument.
            ValueError: The input has more than 2 axes, or `max_length` is less than 1.
        """
        check_names(unknown, ("max_length",))
        check_count("max_length", max_length, least=1)
        max_length = self.max_length if max_length is None else int(max_length)
        text = as_text(x)
        if isinstance(text, tf.RaggedTensor):
            text = text.to_tensor("")  # [B, C]
        ids = self._rows(tf.reshape(text, [-1]), max_length)  # [B * C, (T)]
        if self.ragged:
            return self._ragged_batch(ids, text)
        ids, mask = self._pad(ids, max_length)  # [B * C, T], [B * C, T]
        if text.shape.rank == 2:
            shape = tf.concat([tf.shape(text), tf.shape(ids)[1:]], axis=0)
            ids, mask = tf.reshape(ids, shape), tf.reshape(mask, shape)  # [B, C, T]
            static = text.shape.concatenate([max_length])
            ids, mask = tf.ensure_shape(ids, static), tf.ensure_shape(mask, static)
        return {"input_ids": ids, "attention_mask": mask}

    def _rows(self, text: tf.Tensor, max_length: int | None) -> tf.RaggedTensor:
        """Returns the truncated ids `[B, (T)]` of texts `[B]`, and special tokens around them."""
        if max_length is not None:
            self._check_room(max_length)
        return self.tokenize_rows(text, max_length, self.spec.truncation_side)

    def _check_room(self, max_length: int) -> None:
        """Raises `ValueError` when no token of a text has room in a row."""
        limit = max_length - len(self.spec.prefix_ids) - len(self.spec.suffix_ids)
        if limit < 1:
            raise value_error(
                "`max_length` leaves no room for a token of the text beside the special tokens"
                " around it.",
                fix=f"Pass at least {max_length - limit + 1}, or a tokenizer without them"
                " (`add_bos_token=False` or `template=None`).",
                max_length=max_length,
            )

    def _pad(self, ids: tf.RaggedTensor, max_length: int | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns dense ids and mask `[B, T]`."""
        lengths = ids.row_lengths()  # [B]
        pad = tf.constant(self.pad_token_id, tf.int32)
        shape = None if max_length is None else [None, max_length]
        dense = ids.to_tensor(pad, shape=shape)  # [B, T]
        if max_length is None and self.pad_to_multiple_of is not None:
            missing = -tf.shape(dense)[1] % self.pad_to_multiple_of
            dense = tf.pad(dense, [[0, 0], [0, missing]], constant_values=pad)
        mask = tf.sequence_mask(lengths, tf.shape(dense)[1], tf.int32)  # [B, T]
        if self.spec.padding_side == "left":
            # Reversing a row's tokens and then the whole row moves the padding to the left.
            dense = tf.reverse(tf.reverse_sequence(dense, lengths, seq_axis=1), axis=[1])
            mask = tf.reverse(mask, axis=[1])
        return dense, mask

    def _ragged_batch(self, ids: tf.RaggedTensor, text: tf.Tensor) -> dict[str, tf.RaggedTensor]:
        if text.shape.rank == 2:
            shape = tf.shape(text, tf.int64)
            ids = tf.RaggedTensor.from_uniform_row_length(ids, shape[1], shape[0])  # [B, C, (T)]
        return {"input_ids": ids, "attention_mask": tf.ones_like(ids)}
