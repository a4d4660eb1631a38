"""The SentencePiece kernel of TF Text, with a resource that lives as long as the process."""

from __future__ import annotations

import hashlib

import tensorflow as tf
from tensorflow_text.python.ops import sentencepiece_tokenizer

_ops = sentencepiece_tokenizer.gen_sentencepiece_tokenizer


class SentencepieceModel(tf.saved_model.experimental.TrackableResource):
    """A SentencePiece model in the graph.

    TF Text's own `SentencepieceTokenizer` leaves the model to the kernel that made it, and
    TensorFlow deletes kernels when it clears its caches, for example in `tf.random.set_seed(...)`.
    Here the resource is named after a hash of the model, so it stays; equal models share one, and
    different models never do.

    Args:
        model: The serialized model.
    """

    def __init__(self, model: bytes) -> None:
        super().__init__()
        self._model = model
        self._name = f"tfgpt2_{hashlib.sha256(model).hexdigest()}"
        _ = self.resource_handle  # creates the resource

    def _create_resource(self) -> tf.Tensor:
        return _ops.sentencepiece_op(model=self._model, shared_name=self._name)

    def tokenize(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Splits texts into pieces.

        Args:
            text: string `[B]`, UTF-8.

        Returns:
            int32 ragged `[B, (pieces)]`, indices of pieces.
        """
        values, splits = _ops.sentencepiece_tokenize_op(
            self.resource_handle,
            text,
            nbest_size=0,
            alpha=1.0,
            add_bos=False,
            add_eos=False,
            reverse=False,
            out_type=tf.int32,
            return_nbest=False,
        )
        return tf.RaggedTensor.from_row_splits(values, splits, validate=False)

    def tokenize_with_offsets(
        self, text: tf.Tensor
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Like `tokenize`, with the place of each piece.

        Args:
            text: string `[B]`, UTF-8.

        Returns:
            Indices of pieces, and their starts and ends in bytes, `[B, (pieces)]`.
        """
        values, splits, starts, ends = _ops.sentencepiece_tokenize_with_offsets_op(
            self.resource_handle,
            text,
            nbest_size=0,
            alpha=1.0,
            add_bos=False,
            add_eos=False,
            reverse=False,
            out_type=tf.int32,
            return_nbest=False,
        )
        return tuple(
            tf.RaggedTensor.from_row_splits(one, splits, validate=False)
            for one in (values, starts, ends)
        )
