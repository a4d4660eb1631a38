"""SentencePiece families in the graph: texts to ids, ids to texts.

`B` is the number of texts, `S` of segments, `T` of tokens, `V` of ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from tfgpt2.tokenizers.added_tokens import AddedToken
from tfgpt2.tokenizers.graph import TokenizerGraph
from tfgpt2.tokenizers.segments import SPECIAL, Rows, is_special
from tfgpt2.tokenizers.sentencepiece import SentencepieceModel


class SentencePieceGraph(TokenizerGraph):
    """The operations of a SentencePiece family in the graph.

    Args:
        kernel: The model.
        token_bytes: The bytes of each id.
        first_bytes: The same at the beginning of a text, which may leave out a space.
        special_ids: The ids that decoding can skip.
        split: The added tokens that are split off from texts.
        rules: What happens to texts `[S]` first.
        expansions: The ids that take the place of some ids.
        strips_all_spaces: Whether a text still begins after a token of which nothing is left.
    """

    def __init__(
        self,
        kernel: SentencepieceModel,
        token_bytes: Sequence[bytes],
        first_bytes: Sequence[bytes],
        special_ids: set[int],
        split: Sequence[AddedToken],
        *,
        rules: Sequence[Callable[[tf.Tensor], tf.Tensor]],
        expansions: Mapping[int, list[int]],
        strips_all_spaces: bool,
    ) -> None:
        super().__init__(token_bytes, special_ids, split)
        self._rules, self._sentencepiece = list(rules), kernel
        if split:
            keys = tf.constant([SPECIAL + token.content.encode() for token in split], tf.string)
            ids = tf.constant([token.id for token in split], tf.int32)
            table = tf.lookup.KeyValueTensorInitializer(keys, ids)
            self._added = tf.lookup.StaticHashTable(table, -1)
        self._first_bytes = tf.constant([*first_bytes, b""], tf.string)  # [V + 1]
        self._strips_all_spaces = strips_all_spaces
        self._expansions = None
        if expansions:
            rows = [expansions.get(index, [index]) for index in range(len(token_bytes))]
            rows = tf.ragged.constant(rows, tf.int32)  # [V, (ids)]
            self._expansions = (rows.values, rows.row_splits)

    def encode_segments(self, text: Rows) -> tf.RaggedTensor:
        """Returns the ids `[B, (T)]` of texts whose added tokens were split off."""
        plain, special = text.values, is_special(text.values)  # [S]
        if self.passes:
            plain = tf.where(special, "", plain)
        for rule in self._rules:
            plain = rule(plain)
        ids = self._sentencepiece.tokenize(plain)  # [S, (T)]
        if self._expansions is not None:
            values, splits = self._expansions
            rows = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
            found = tf.gather(rows, ids.values)  # [tokens, (ids)]
            splits = tf.gather(found.row_splits, ids.row_splits)
            ids = tf.RaggedTensor.from_row_splits(found.values, splits, validate=False)
        if self.passes:
            added = self._added.lookup(tf.boolean_mask(text.values, special))
            added = tf.RaggedTensor.from_row_lengths(
                added, tf.cast(special, tf.int64), validate=False
            )
            ids = tf.concat([ids, added], axis=1)  # [S, (T)]; a segment has one or the other
        splits = tf.gather(ids.row_splits, text.row_splits)
        return tf.RaggedTensor.from_row_splits(ids.values, splits, validate=False)  # [B, (T)]

    def decode_text(
        self, ids: tf.RaggedTensor | tf.Tensor, strips_first_space: bool = False
    ) -> tf.Tensor:
        """Returns the texts of ids along the last axis, as SentencePiece decodes them."""
        if isinstance(ids, tf.RaggedTensor):
            ids = ids.to_tensor(-1)
        places = self._places(ids)  # [..., T]
        inside, first = (tf.gather(one, places) for one in (self._token_bytes, self._first_bytes))
        written = tf.strings.length(first if self._strips_all_spaces else inside)
        begins = tf.equal(tf.cumsum(written, axis=-1, exclusive=True), 0)
        return tf.strings.reduce_join(tf.where(begins, first, inside), axis=-1)
