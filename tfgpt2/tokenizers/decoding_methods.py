"""Methods of transformers' tokenizers that turn ids and tokens into each other and into text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.tokenizers import batch_encoding
from tfgpt2.tokenizers.base import TokenizerSpec


class DecodingMethods:
    """Ids to text, and tokens to ids and back.

    Attributes:
        clean_up_tokenization_spaces: Whether decoding joins punctuation to the word before.
    """

    spec: TokenizerSpec
    clean_up_tokenization_spaces = False

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = False,
    ) -> str:
        """Decodes ids to text; ids without a token give nothing.

        Args:
            token_ids: An id, a list of ids, or a tensor `[T]`.
            skip_special_tokens: Whether special tokens give nothing.
            clean_up_tokenization_spaces: Whether to join `" ."`, `" n't"` and the like to the word
                before; None is the tokenizer's attribute of this name.
            spaces_between_special_tokens: As in transformers' fast tokenizers; changes nothing.

        Returns:
            The text; bytes that are not UTF-8 become U+FFFD.
        """
        skip = self.spec.special_ids if skip_special_tokens else ()
        size = self.spec.size
        ids = [i for i in batch_encoding.to_ids(token_ids) if i not in skip and 0 <= i < size]
        text = self.spec.text_of(ids)
        clean = clean_up_tokenization_spaces
        clean = self.clean_up_tokenization_spaces if clean is None else clean
        return batch_encoding.clean_up_spaces(text) if clean else text

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Joins `" ."`, `" n't"` and the like to the word before."""
        return batch_encoding.clean_up_spaces(out_string)

    def detokenize_bytes(self, inputs: Any, skip_special_tokens: bool = False) -> tf.Tensor:
        """Returns the bytes of rows of ids, as the layer of the same name does.

        Args:
            inputs: Ids `[B, T]`; those without a token give nothing.
            skip_special_tokens: Whether special tokens give nothing.

        Returns:
            string `[B]`.
        """
        skip = self.spec.special_ids if skip_special_tokens else ()
        table = self.spec.token_bytes
        rows = [
            b"".join(table[i] for i in row if i not in skip and 0 <= i < len(table))
            for row in np.asarray(inputs).tolist()
        ]
        return tf.constant(rows, tf.string, [len(rows)])

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Decodes several rows of ids; the options are those of `decode`."""
        return [self.decode(row, **options) for row in sequences]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Returns the id of a token, or of each token; `unk_token_id` for unknown ones."""
        if tokens is None:
            return None
        if isinstance(tokens, str):
            token_id = self.spec.id_of(tokens)
            return self.unk_token_id if token_id is None else token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Returns the token of an id, or of each id; None for an id without one."""
        tokens = {token_id: token for token, token_id in self.get_vocab().items()}
        if np.ndim(ids) == 0:
            return tokens.get(int(ids))
        skip = self.spec.special_ids if skip_special_tokens else ()
        return [tokens.get(i) for i in batch_encoding.to_ids(ids) if i not in skip]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Returns the text of tokens, as they are in the vocabulary."""
        added = {token.content: self.spec.added_to_bytes(token) for token in self.spec.added}
        return self.spec.join(added.get(t) or self.spec.token_to_bytes(t) for t in tokens)
