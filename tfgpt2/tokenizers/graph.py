"""Operations of a tokenizer in the graph: texts to ids, ids to bytes.

`B` is the number of texts, `T` of tokens, `V` the size of the vocabulary.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import tensorflow as tf

from tfgpt2.tokenizers import segments
from tfgpt2.tokenizers.added_token_split import make_passes, split_off
from tfgpt2.tokenizers.added_tokens import AddedToken


class TokenizerGraph(tf.Module, abc.ABC):
    """The operations of a tokenizer in the graph.

    A family's subclass defines `encode_segments`, and `normalize` if it has a normalizer; its
    tables are attributes, so that they travel with a SavedModel.

    Args:
        token_bytes: The bytes of each id.
        special_ids: The ids that decoding can skip.
        split: The added tokens that are split off from texts.
    """

    def __init__(
        self, token_bytes: Sequence[bytes], special_ids: set[int], split: Sequence[AddedToken]
    ) -> None:
        super().__init__()
        self.passes = make_passes(split)
        self._size = len(token_bytes)
        self._token_bytes = tf.constant([*token_bytes, b""], tf.string)  # [V + 1]
        self._is_special = tf.constant([i in special_ids for i in range(self._size + 1)])  # [V + 1]

    def normalize(self, text: segments.Rows) -> segments.Rows:
        """Returns normalized texts, in which the added tokens that are `normalized` are found.

        Args:
            text: See `encode_segments`; segments of the other added tokens must stay.
        """
        return text

    @abc.abstractmethod
    def encode_segments(self, text: segments.Rows) -> tf.RaggedTensor:
        """Returns the ids of texts whose added tokens were split off.

        Args:
            text: Segments of `B` texts, valid UTF-8; those that start with `segments.SPECIAL` are
                added tokens.

        Returns:
            int32 ids `[B, (T)]`.
        """

    def encode(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids, int32 `[B, (T)]`, of texts `[B]`."""
        with tf.device("CPU:0"):  # Strings live there; the ids should not travel back and forth.
            text = segments.valid_utf8(text)
            rows = segments.Rows(text, tf.range(tf.size(text, tf.int64) + 1))
            first, then = ([p for p in self.passes if p.normalized == n] for n in (False, True))
            for tokens in first:  # one at most, as there is in `then`
                rows = split_off(rows, tokens, has_special=False)
            rows = self.normalize(rows)
            for tokens in then:
                rows = split_off(rows, tokens, has_special=bool(first))
            return self.encode_segments(rows)

    def decode(self, ids: tf.RaggedTensor | tf.Tensor) -> tf.Tensor:
        """Joins the bytes of token ids along the last axis, as they are after other text.

        Args:
            ids: Integer ids, rank 1 or more; an id that is no token gives nothing.

        Returns:
            String tensor without the last axis; not necessarily valid UTF-8.
        """
        return tf.strings.reduce_join(tf.gather(self._token_bytes, self._places(ids)), axis=-1)

    def decode_text(
        self, ids: tf.RaggedTensor | tf.Tensor, strips_first_space: bool = False
    ) -> tf.Tensor:
        """Like `decode`, for a whole text.

        Args:
            ids: See `decode`.
            strips_first_space: Whether the text does not begin with the space of its first token.
        """
        text = self.decode(ids)
        if strips_first_space:
            text = tf.strings.regex_replace(text, "^ ", "", replace_global=False)
        return text

    def without_special(self, ids: tf.Tensor) -> tf.Tensor:
        """Replaces special ids by an id that is no token."""
        none = tf.ones_like(ids) * tf.constant(self._size, ids.dtype)
        return tf.where(tf.gather(self._is_special, self._places(ids)), none, ids)

    def _places(self, ids: tf.RaggedTensor | tf.Tensor) -> tf.RaggedTensor | tf.Tensor:
        """Returns where ids stand in the tables; those that are no token, at the end."""
        size = tf.constant(self._size, ids.dtype)
        return tf.where((ids >= 0) & (ids < size), ids, tf.ones_like(ids) * size)
