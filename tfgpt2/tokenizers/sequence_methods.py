"""Methods of transformers' tokenizers that put special tokens around ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.batch_encoding import BatchEncoding, to_ids, to_tensors
from tfgpt2.tokenizers.rows import Part, Truncation, join_pair, kept_lengths
from tfgpt2.tokenizers.template import Affixes, Template


class SequenceMethods:
    """Special tokens around sequences of ids, as the tokenizer's template has them."""

    spec: TokenizerSpec

    def _around(self, pair: bool, add: bool = True) -> list[tuple[Part, Part]]:
        """The special tokens before and after each text; none unless they are to be added."""
        template = self.spec.text_template if add else Template()
        affixes = template.of_pair() if pair else [Affixes(template.prefix, template.suffix)]
        return [(self._special(one.prefix), self._special(one.suffix)) for one in affixes]

    def _special(self, tokens: Sequence[str]) -> Part:
        count = len(tokens)
        ids = [self.spec.id_of(token) for token in tokens]
        return Part(ids, list(tokens), [(0, 0)] * count, [None] * count)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Returns how many special tokens a call adds to a text, or to a pair of texts."""
        return sum(len(part.ids) for parts in self._around(pair) for part in parts)

    @property
    def max_len_single_sentence(self) -> int:
        """The most tokens of a text that fit a model, without special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add()

    @property
    def max_len_sentences_pair(self) -> int:
        """The most tokens of a pair of texts that fit a model, without special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Returns the ids of one or two sequences with special tokens around them."""
        texts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        around = self._around(token_ids_1 is not None)
        return [
            one
            for text, (before, after) in zip(texts, around, strict=True)
            for one in (*before.ids, *to_ids(text), *after.ids)
        ]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Returns 0 for each token of the first sequence, its special tokens included, and 1."""
        texts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        around = self._around(token_ids_1 is not None)
        return [
            index
            for index, (text, (before, after)) in enumerate(zip(texts, around, strict=True))
            for _ in range(len(before.ids) + len(text) + len(after.ids))
        ]

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Returns 1 for special tokens and 0 for others.

        Args:
            token_ids_0: A sequence.
            token_ids_1: A second one, or None.
            already_has_special_tokens: Whether the ids hold special tokens, whatever their place;
                else the mask is that of `build_inputs_with_special_tokens`.
        """
        if already_has_special_tokens:
            special = {self.spec.id_of(token) for token in self.all_special_tokens}
            return [int(token_id in special) for token_id in to_ids(token_ids_0)]
        texts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        around = self._around(token_ids_1 is not None)
        return [
            one
            for text, (before, after) in zip(texts, around, strict=True)
            for one in (*[1] * len(before.ids), *[0] * len(text), *[1] * len(after.ids))
        ]

    def truncate_sequences(
        self,
        ids: Sequence[int],
        pair_ids: Sequence[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: str = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Removes tokens from one or two sequences.

        Args:
            ids: A sequence.
            pair_ids: A second one, or None.
            num_tokens_to_remove: How many.
            truncation_strategy: See a call's `truncation`.
            stride: Tokens before the removed ones that are returned with them.

        Returns:
            Both sequences, and the removed tokens of the first one that was cut.
        """
        ids, pair_ids = to_ids(ids), None if pair_ids is None else to_ids(pair_ids)
        total = len(ids) + len(pair_ids or ()) - max(num_tokens_to_remove, 0)
        limit = Truncation.from_options(self.spec, False, truncation_strategy, max(total, 1))
        kept = kept_lengths(len(ids), len(pair_ids or ()), 0, limit)
        removed: list[int] = []
        result = []
        for sequence, count in zip((ids, pair_ids), kept, strict=True):
            if sequence is None or count >= len(sequence):
                result.append(sequence)
                continue
            left, edge = limit.side == "left", len(sequence) - count
            if not removed:
                removed = sequence[: edge + stride] if left else sequence[max(count - stride, 0) :]
            result.append(sequence[edge:] if left else sequence[:count])
        return result[0], result[1], removed

    def prepare_for_model(
        self,
        ids: Sequence[int],
        pair_ids: Sequence[int] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        *,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        prepend_batch_axis: bool = False,
        return_token_type_ids: bool = False,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
    ) -> BatchEncoding:
        """Truncates and pads ids that were made with `add_special_tokens=False`.

        Args:
            ids: Ids of a text.
            pair_ids: Ids of a second text, or None.
            add_special_tokens: Whether to add the special tokens around texts.
            padding: See a call.
            truncation: See a call.
            max_length: See a call.
            pad_to_multiple_of: See a call.
            padding_side: See a call.
            return_tensors: See a call.
            prepend_batch_axis: Whether tensors have an axis for the rows.
            return_token_type_ids: See a call.
            return_special_tokens_mask: See a call.
            return_length: See a call.
        """
        limit = Truncation.from_options(self.spec, padding, truncation, max_length)
        first, second = (
            None if one is None else Part(to_ids(one), [""] * len(one), [(0, 0)] * len(one),
                                          [None] * len(one))
            for one in (ids, pair_ids)
        )  # fmt: skip
        around = self._around(second is not None, add_special_tokens)
        row = join_pair(first, second, around, limit)[0]
        options = (padding, limit.max_length, pad_to_multiple_of, padding_side)
        (row,) = self._padded_rows([row], *options)
        wanted = {
            "input_ids": row.ids,
            "token_type_ids": row.type_ids if return_token_type_ids else None,
            "attention_mask": row.attention_mask,
            "special_tokens_mask": row.special_tokens_mask if return_special_tokens_mask else None,
            "length": len(row) if return_length else None,
        }
        columns: dict[str, Any] = {k: v for k, v in wanted.items() if v is not None}
        if prepend_batch_axis:
            columns = {key: [value] for key, value in columns.items()}
        return BatchEncoding(to_tensors(columns, return_tensors))
