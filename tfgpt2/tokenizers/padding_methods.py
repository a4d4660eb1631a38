"""Padding of rows to one length, of texts that were just tokenized or of earlier results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfgpt2.errors import value_error
from tfgpt2.tokenizers import batch_encoding
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.batch_encoding import BatchEncoding, to_tensors
from tfgpt2.tokenizers.rows import Row, Truncation, padded_width
from tfgpt2.tokenizers.spec_checks import SIDES
from tfgpt2.validation import check_choice


class PaddingMethods:
    """Padding with the tokenizer's `pad_token`, on its `padding_side`."""

    spec: TokenizerSpec

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pads rows that were tokenized one by one.

        Args:
            encoded_inputs: Results of calls, or one dictionary of columns.
            padding: True or `"longest"`, or `"max_length"`.
            max_length: Length for `"max_length"`; by default `model_max_length`.
            pad_to_multiple_of: Rounds the padded length up to a multiple.
            padding_side: `"left"` or `"right"`; by default the tokenizer's own.
            return_attention_mask: Whether to return `attention_mask`; None is True.
            return_tensors: `"tf"`, `"np"`, or None for lists.
            verbose: As in transformers; changes nothing.

        Returns:
            The rows, all of one length, with an `attention_mask`; other columns, such as `labels`,
            as they are.

        Raises:
            ValueError: There is no pad token, or an option's value is not allowed.
        """
        ids = encoded_inputs.get("input_ids", ()) if isinstance(encoded_inputs, Mapping) else ()
        single = np.ndim(next(iter(ids), ())) == 0  # one row of ids, not a list of rows
        columns = batch_encoding.collate([encoded_inputs] if single else encoded_inputs)
        if return_attention_mask is False:
            columns.pop("attention_mask")
        limit = Truncation.from_options(self.spec, padding, False, max_length)
        columns = self._pad(columns, padding, limit.max_length, pad_to_multiple_of, padding_side)
        if single and return_tensors is None:
            columns = {key: column[0] for key, column in columns.items()}
        return BatchEncoding(to_tensors(columns, return_tensors))

    def _padded_rows(
        self,
        rows: list[Row],
        padding: bool | str,
        max_length: int | None,
        multiple: int | None,
        side: str | None,
    ) -> list[Row]:
        """Returns rows padded as a call asks for."""
        if padding in (False, "do_not_pad") or (padding == "max_length" and max_length is None):
            return rows
        self._check_pad_token()
        side = side or self.spec.padding_side
        check_choice("padding_side", side, SIDES)
        length = max_length if padding == "max_length" else None
        width = padded_width(list(map(len, rows)), length, multiple)
        return [row.padded(width, side, self.pad_token_id, self.pad_token) for row in rows]

    def _check_pad_token(self) -> None:
        if self.pad_token_id is None:
            raise value_error(
                "Padding needs a `pad_token`, and the tokenizer has none.",
                fix="Set `tokenizer.pad_token = tokenizer.eos_token`, or add one.",
                pad_token=None,
            )

    def _pad(
        self,
        columns: dict[str, list[Any]],
        padding: bool | str,
        max_length: int | None,
        multiple: int | None,
        side: str | None,
    ) -> dict[str, list[Any]]:
        """Returns the columns padded, see `batch_encoding.pad`."""
        if padding in (False, "do_not_pad") or (padding == "max_length" and max_length is None):
            return columns
        self._check_pad_token()
        length = max_length if padding == "max_length" else None
        side = side or self.spec.padding_side
        return batch_encoding.pad(columns, length, multiple, self.pad_token_id, side)
