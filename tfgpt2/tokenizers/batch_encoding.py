"""Rows of the host tokenizer: joined, truncated, padded, made into tensors, as plain functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import type_error, value_error
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.spec_checks import SIDES
from tfgpt2.tokenizers.template import Template
from tfgpt2.validation import check_choice, check_count

_PADDING_VALUES = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
_TRUNCATION = (None, True, False, "longest_first", "only_first", "only_second", "do_not_truncate")
_PADDING = (False, True, "longest", "max_length", "do_not_pad")


class BatchEncoding(dict):
    """A dictionary whose items are attributes too.

    Example:
        >>> BatchEncoding(input_ids=[1, 2]).input_ids
        [1, 2]
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclasses.dataclass(frozen=True)
class Truncation:
    """How rows are truncated.

    Attributes:
        strategy: None, `"longest_first"`, `"only_first"` or `"only_second"`.
        max_length: Most tokens of a row, or None.
        side: Side on which tokens are cut off.
    """

    strategy: str | None
    max_length: int | None
    side: str

    @classmethod
    def from_options(
        cls,
        spec: TokenizerSpec,
        padding: bool | str,
        truncation: bool | str | None,
        max_length: int | None,
    ) -> Truncation:
        """Checks the options of a call and fills in the defaults of transformers."""
        check_choice("padding", padding, _PADDING)
        check_choice("truncation", truncation, _TRUNCATION)
        check_count("max_length", max_length, least=1)
        if truncation is None:
            truncation = max_length is not None and padding in (False, "do_not_pad")
        strategy = "longest_first" if truncation is True else truncation or None
        strategy = None if strategy == "do_not_truncate" else strategy
        max_length = spec.model_max_length if max_length is None else max_length
        if max_length is None and (strategy or padding == "max_length"):
            raise value_error(
                "The tokenizer has no `model_max_length`, so a length must be given.",
                fix="Pass `max_length=`.",
                max_length=None,
            )
        return cls(strategy, max_length, spec.truncation_side)


def check_texts(
    text: str | Sequence[str], pair: str | Sequence[str] | None
) -> tuple[bool, list[str], list[str | None]]:
    """Checks the texts of a call.

    Args:
        text: A text, or several.
        pair: As many second texts, or None.

    Returns:
        Whether `text` is a single one, the texts, and as many second texts or None.

    Raises:
        TypeError: They are not texts.
        ValueError: There are not as many second texts as texts.
    """
    single = isinstance(text, str)
    firsts = [text] if single else text
    _check_strings("text", firsts)
    seconds = [pair] if single else ([None] * len(firsts) if pair is None else pair)
    if pair is not None:
        _check_strings("text_pair", seconds)
    if len(firsts) != len(seconds):
        raise value_error(
            "There must be one `text_pair` for each `text`.",
            fix="Pass lists of the same length.",
            text=len(firsts),
            text_pair=len(seconds),
        )
    return single, list(firsts), list(seconds)


def _check_strings(name: str, values: Any) -> None:
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise type_error(
            f"`{name}` must be a string or a list of strings.",
            fix="Decode bytes first; tensors go to `TFGPT2Tokenizer`.",
            **{name: values},
        )


def join_pair(
    first: tuple[list[int], list[Any]],
    second: tuple[list[int], list[Any]] | None,
    template: Template,
    truncation: Truncation,
    id_of: Callable[[str], int],
) -> dict[str, Any]:
    """Returns one row made of two texts.

    Args:
        first: Ids and offsets of the first text.
        second: Ids and offsets of the second text, or None.
        template: The special tokens around the texts.
        truncation: How to truncate the row.
        id_of: From a special token to its id.

    Returns:
        Every column the row can have.
    """
    has_pair = second is not None
    second = second or ([], [])
    affixes = template.of_pair() if has_pair else ((template.prefix, template.suffix),)
    special = [[list(map(id_of, side)) for side in sides] for sides in affixes]
    num_special = sum(len(side) for sides in special for side in sides)
    kept = _kept_lengths(len(first[0]), len(second[0]), num_special, truncation)
    row: dict[str, Any] = {"input_ids": [], "token_type_ids": [], "special_tokens_mask": []}
    row["offset_mapping"] = []
    texts = zip((first, second)[: 1 + has_pair], kept, strict=False)
    for index, ((token_ids, offsets), count) in enumerate(texts):
        left = truncation.side == "left"
        part = slice(len(token_ids) - count, None) if left else slice(count)
        head, tail = special[index]
        row["input_ids"] += head + token_ids[part] + tail
        row["special_tokens_mask"] += [1] * len(head) + [0] * count + [1] * len(tail)
        row["offset_mapping"] += [(0, 0)] * len(head) + offsets[part] + [(0, 0)] * len(tail)
        row["token_type_ids"] += [index] * (len(head) + count + len(tail))
    row["length"] = len(row["input_ids"])
    row["attention_mask"] = [1] * row["length"]
    return row


def _kept_lengths(
    first: int, second: int, num_special: int, truncation: Truncation
) -> tuple[int, int]:
    """Returns how many tokens of each text stay in a row with `num_special` others.

    Source:
        `truncate_encodings` of `tokenizers`, `utils/truncation.rs`.
    """
    if truncation.strategy is None:
        return first, second
    limit = truncation.max_length - num_special
    excess = first + second - limit
    if excess <= 0:
        return first, second
    if truncation.strategy == "only_first":
        first -= excess
    elif truncation.strategy == "only_second":
        second -= excess
    else:
        short, long = min(first, second), max(first, second)
        long = max(short, limit - short)
        if short + long > limit:
            short, long = limit // 2, limit // 2 + limit % 2
        first, second = (long, short) if first > second else (short, long)
    if min(first, second) < 0:
        raise value_error(
            "The text that may be truncated is too short to make the row fit.",
            fix="Use truncation='longest_first', or a larger `max_length`.",
            truncation=truncation.strategy,
            max_length=truncation.max_length,
        )
    return first, second


def collate(encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Returns results of calls as one dictionary of columns, lists of rows."""
    if not isinstance(encoded, Mapping):
        encoded = {key: [item[key] for item in encoded] for key in (encoded[0] if encoded else ())}
    if "input_ids" not in encoded:
        raise value_error(
            "There is nothing to pad without `input_ids`.",
            fix="Pass results of the tokenizer.",
            keys=list(encoded),
        )
    result = {key: [to_ids(row) for row in value] for key, value in encoded.items()}
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
    check_count("pad_to_multiple_of", multiple, least=1)
    longest = max((len(row) for row in columns["input_ids"]), default=0)
    width = longest if length is None else length
    width = -(-width // multiple) * multiple if multiple else width
    padding_values = _PADDING_VALUES | {"input_ids": pad_token_id, "offset_mapping": (0, 0)}

    def padded(key: str, row: Any) -> Any:
        if key not in padding_values:
            return row
        extra = [padding_values[key]] * max(width - len(row), 0)
        return [*extra, *row] if side == "left" else [*row, *extra]

    return {key: [padded(key, row) for row in column] for key, column in columns.items()}


def to_tensors(columns: dict[str, Any], kind: str | None) -> BatchEncoding:
    """Returns columns as lists, numpy arrays or TensorFlow tensors (int64 and int32)."""
    check_choice("return_tensors", kind, (None, "tf", "np"))
    if kind is None:
        return BatchEncoding(columns)
    lengths = {len(row) for row in columns["input_ids"]}
    if len(lengths) > 1:
        raise value_error(
            "Rows of different lengths do not fit into one tensor.",
            fix="Pass `padding=True`, and `truncation=True` for long rows.",
            lengths=sorted(lengths),
        )
    arrays = {key: np.array(column, np.int64) for key, column in columns.items()}
    if not columns["input_ids"]:
        arrays = {key: np.zeros((0, 0), np.int64) for key in columns}
    if kind == "tf":
        return BatchEncoding({key: tf.constant(a, tf.int32) for key, a in arrays.items()})
    return BatchEncoding(arrays)


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
