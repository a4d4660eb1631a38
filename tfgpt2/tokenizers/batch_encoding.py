"""`BatchEncoding`: what the host tokenizer returns, and its conversion to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.errors import type_error, value_error
from tfgpt2.tokenizers.rows import Row, padded_width
from tfgpt2.tokenizers.spec_checks import SIDES
from tfgpt2.validation import check_choice

_PADDING_VALUES = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class CharSpan(NamedTuple):
    """Characters of a text: `text[start:end]`."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens of a row: `ids[start:end]`."""

    start: int
    end: int


class BatchEncoding(dict):
    """A dictionary whose items are attributes too, and which knows where its tokens come from.

    The methods take the number of a row and of a token, word or character in it; of a single text,
    the latter alone.

    Args:
        data: Columns by name.
        rows: The rows that the columns were made from.

    Example:
        >>> BatchEncoding(input_ids=[1, 2]).input_ids
        [1, 2]
    """

    def __init__(self, data: Any = (), rows: Sequence[Row] = (), **columns: Any) -> None:
        super().__init__(data, **columns)
        self.__dict__["_rows"] = list(rows)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        if isinstance(key, slice):
            return {name: column[key] for name, column in self.items()}
        return self._row(key)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self._rows)

    @property
    def data(self) -> dict[str, Any]:
        """The columns as a plain dictionary."""
        return dict(self)

    @property
    def is_fast(self) -> bool:
        """Whether rows know the origin of their tokens."""
        return bool(self._rows)

    @property
    def encodings(self) -> list[Row] | None:
        """The rows, or None where the dictionary did not come from texts."""
        return self._rows or None

    @property
    def n_sequences(self) -> int | None:
        """Texts of each row: 1, or 2 for pairs."""
        known = [i for row in self._rows for i in row.sequence_ids if i is not None]
        return 1 + max(known, default=0) if self._rows else None

    def _row(self, batch_index: int) -> Row:
        if not self._rows:
            raise value_error(
                "The origin of tokens is known only in what the tokenizer returned for texts.",
                fix="Call the tokenizer on texts.",
                keys=list(self),
            )
        return self._rows[batch_index]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row, as in the vocabulary."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """The number of the word of each token of a row; None for special tokens."""
        return self._row(batch_index).word_ids

    words = word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """0 for tokens of the first text of a row, 1 of the second, None for special tokens."""
        return self._row(batch_index).sequence_ids

    def token_to_sequence(
        self, batch_or_token_index: int, token_index: int | None = None
    ) -> int | None:
        """The text, 0 or 1, that a token belongs to."""
        row, token = self._place(batch_or_token_index, token_index)
        return row.sequence_ids[token]

    def token_to_word(
        self, batch_or_token_index: int, token_index: int | None = None
    ) -> int | None:
        """The word that a token belongs to."""
        row, token = self._place(batch_or_token_index, token_index)
        return row.word_ids[token]

    def token_to_chars(
        self, batch_or_token_index: int, token_index: int | None = None
    ) -> CharSpan | None:
        """The characters of a token in its text, or None for a special token."""
        row, token = self._place(batch_or_token_index, token_index)
        return None if row.sequence_ids[token] is None else CharSpan(*row.offsets[token])

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that holds a character of a text, or None."""
        row, char = self._place(batch_or_char_index, char_index)
        for token, (start, end) in enumerate(row.offsets):
            if row.sequence_ids[token] == sequence_index and start <= char < end:
                return token
        return None

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word, or None."""
        row, word = self._place(batch_or_word_index, word_index)
        found = [
            token
            for token, (one, text) in enumerate(zip(row.word_ids, row.sequence_ids, strict=True))
            if one == word and text == sequence_index
        ]
        return TokenSpan(found[0], found[-1] + 1) if found else None

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word in its text, or None."""
        row, _ = self._place(batch_or_word_index, word_index)
        span = self.word_to_tokens(batch_or_word_index, word_index, sequence_index)
        if span is None:
            return None
        return CharSpan(row.offsets[span.start][0], row.offsets[span.end - 1][1])

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that holds a character of a text, or None."""
        row, _ = self._place(batch_or_char_index, char_index)
        token = self.char_to_token(batch_or_char_index, char_index, sequence_index)
        return None if token is None else row.word_ids[token]

    def _place(self, first: int, second: int | None) -> tuple[Row, int]:
        """The row and the index in it, of arguments `(index)` or `(row, index)`."""
        return (self._row(0), first) if second is None else (self._row(first), second)

    def convert_to_tensors(
        self, tensor_type: str | None = None, prepend_batch_axis: bool = False
    ) -> BatchEncoding:
        """Converts the columns in place, and returns the dictionary.

        Args:
            tensor_type: `"tf"`, `"np"`, or None for no change.
            prepend_batch_axis: Whether the columns are those of a single row.

        Raises:
            ValueError: Rows differ in length, or there is no such type.
        """
        columns = {k: [v] for k, v in self.items()} if prepend_batch_axis else dict(self)
        self.update(to_tensors(columns, tensor_type))
        return self


def collate(encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Returns results of calls as one dictionary of columns, lists of rows.

    Columns that padding does not know, such as `labels`, keep their entries.
    """
    if not isinstance(encoded, Mapping):
        encoded = {key: [item[key] for item in encoded] for key in (encoded[0] if encoded else ())}
    if "input_ids" not in encoded:
        raise value_error(
            "There is nothing to pad without `input_ids`.",
            fix="Pass results of the tokenizer.",
            keys=list(encoded),
        )
    padded = {*_PADDING_VALUES, "input_ids"}
    result = {
        key: [to_ids(row) if key in padded else row for row in value]
        for key, value in encoded.items()
    }
    result.setdefault("attention_mask", [[1] * len(row) for row in result["input_ids"]])
    return result


def pad(
    columns: dict[str, list[Any]],
    length: int | None,
    multiple: int | None,
    pad_token_id: int,
    side: str,
) -> dict[str, list[Any]]:
    """Returns columns whose rows all have the same length.

    Args:
        columns: Columns, `input_ids` among them.
        length: Shortest length of the result; None is that of the longest row.
        multiple: Rounds the length up to a multiple of this.
        pad_token_id: Padding of `input_ids`.
        side: `"left"` or `"right"`.

    Returns:
        The padded columns.

    Example:
        >>> pad({"input_ids": [[1], [2, 3]]}, None, None, pad_token_id=0, side="left")
        {'input_ids': [[0, 1], [2, 3]]}
    """
    check_choice("padding_side", side, SIDES)
    width = padded_width([len(row) for row in columns["input_ids"]], length, multiple)
    padding_values = _PADDING_VALUES | {"input_ids": pad_token_id, "offset_mapping": (0, 0)}

    def padded(key: str, row: Any) -> Any:
        if key not in padding_values:
            return row
        extra = [padding_values[key]] * max(width - len(row), 0)
        return [*extra, *row] if side == "left" else [*row, *extra]

    return {key: [padded(key, row) for row in column] for key, column in columns.items()}


def to_tensors(columns: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    """Returns columns as lists, numpy arrays or TensorFlow tensors (int64 and int32)."""
    kind = getattr(kind, "value", kind)  # a member of an enumeration such as `TensorType`
    check_choice("return_tensors", kind, (None, "tf", "np"))
    if kind is None:
        return dict(columns)
    arrays = {}
    for key, column in columns.items():
        try:
            array = np.asarray(column)
        except ValueError as error:  # rows of different lengths
            raise value_error(
                "Rows of different lengths do not fit into one tensor.",
                fix="Pass `padding=True`, and `truncation=True` for long rows.",
                column=key,
                lengths=sorted({len(row) for row in column}),
            ) from error
        empty = array.size == 0 and key not in ("length", "overflow_to_sample_mapping")
        arrays[key] = np.zeros((0, 0), np.int64) if empty and array.ndim < 2 else array
    if kind == "np":
        return {k: a.astype(np.int64) if a.dtype.kind in "iub" or not a.size else a
                for k, a in arrays.items()}  # fmt: skip
    types = {"i": tf.int32, "u": tf.int32, "b": tf.int32, "f": tf.float32}
    return {
        key: tf.constant(a, types.get(a.dtype.kind) if a.size else tf.int32)
        for key, a in arrays.items()
    }


def to_ids(values: Any) -> list[int]:
    """Returns ids as a list of Python integers, whether they came as a list or a tensor."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise type_error(
            "Token ids must be integers.",
            fix="Pass what the tokenizer returned as `input_ids`.",
            token_ids=values,
        )
    return array.reshape(-1).tolist() if array.ndim < 2 else array.tolist()


def clean_up_spaces(text: str) -> str:
    """Joins punctuation and contractions to the word before.

    Source:
        `PreTrainedTokenizerBase.clean_up_tokenization` of transformers.

    Example:
        >>> clean_up_spaces("it 's fine .")
        "it's fine."
    """
    for piece in _CLEAN_UP:
        text = text.replace(piece, piece.strip() if piece == " ' " else piece[1:])
    return text
