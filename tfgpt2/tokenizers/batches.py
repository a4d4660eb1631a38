"""Rows of the host tokenizer: joined, cut, padded, made into tensors. Plain functions of lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.tokenizers.spec import SIDES, Spec
from tfgpt2.tokenizers.text_inputs import check_choice, check_count

_FILL = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
_CLEAN_UP = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")
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
class Cut:
    """How rows are cut.

    Attributes:
        strategy: None, `"longest_first"`, `"only_first"` or `"only_second"`.
        length: Most tokens of a row, or None.
        side: Where the tokens that go stand.
    """

    strategy: str | None
    length: int | None
    side: str

    @classmethod
    def plan(
        cls, spec: Spec, padding: bool | str, truncation: bool | str | None, length: int | None
    ) -> Cut:
        """Checks what a caller asked for and fills in the defaults of transformers."""
        check_choice("padding", padding, _PADDING)
        check_choice("truncation", truncation, _TRUNCATION)
        check_count("max_length", length, least=1)
        if truncation is None:
            truncation = length is not None and padding in (False, "do_not_pad")
        strategy = "longest_first" if truncation is True else truncation or None
        strategy = None if strategy == "do_not_truncate" else strategy
        length = spec.model_max_length if length is None else length
        if length is None and (strategy or padding == "max_length"):
            raise ValueError(
                explain(
                    "The tokenizer has no `model_max_length`, so a length must be given.",
                    fix="Pass `max_length=`.",
                    max_length=None,
                )
            )
        return cls(strategy, length, spec.truncation_side)


def texts(
    text: str | Sequence[str], pair: str | Sequence[str] | None
) -> tuple[bool, list[str], list[str | None]]:
    """Returns whether one text came, the texts, and as many second texts (None for none)."""
    single = isinstance(text, str)
    firsts = [text] if single else text
    _check_texts("text", firsts)
    seconds = [pair] if single else ([None] * len(firsts) if pair is None else pair)
    if pair is not None:
        _check_texts("text_pair", seconds)
    if len(firsts) != len(seconds):
        raise ValueError(
            explain(
                "There must be one `text_pair` for each `text`.",
                fix="Pass lists of the same length.",
                text=len(firsts),
                text_pair=len(seconds),
            )
        )
    return single, list(firsts), list(seconds)


def _check_texts(name: str, values: Any) -> None:
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise TypeError(
            explain(
                f"`{name}` must be a string or a list of strings.",
                fix="Decode bytes first; tensors go to `TFGPT2Tokenizer`.",
                **{name: values},
            )
        )


def join(
    first: tuple[list[int], list[Any]],
    second: tuple[list[int], list[Any]],
    bos: int | None,
    cut: Cut,
) -> dict[str, Any]:
    """Returns one row made of two texts.

    Args:
        first: Ids and offsets of the first text.
        second: Ids and offsets of the second text; empty for none.
        bos: Id to put before each text, or None.
        cut: How to cut.

    Returns:
        Every column the row can have.
    """
    has_pair = bool(second[0])
    heads = 0 if bos is None else 1 + has_pair
    keep = _kept(len(first[0]), len(second[0]), heads, cut)
    row: dict[str, Any] = {"input_ids": [], "token_type_ids": [], "special_tokens_mask": []}
    row["offset_mapping"] = []
    for kind, ((token_ids, offsets), count) in enumerate(zip((first, second), keep, strict=True)):
        if kind == 1 and not has_pair:
            continue
        part = slice(len(token_ids) - count, None) if cut.side == "left" else slice(count)
        head = [] if bos is None else [bos]
        row["input_ids"] += head + token_ids[part]
        row["special_tokens_mask"] += [1] * len(head) + [0] * count
        row["offset_mapping"] += [(0, 0)] * len(head) + offsets[part]
        row["token_type_ids"] += [kind] * (len(head) + count)
    row["length"] = len(row["input_ids"])
    row["attention_mask"] = [1] * row["length"]
    return row


def _kept(first: int, second: int, heads: int, cut: Cut) -> tuple[int, int]:
    """Returns how many tokens of each text stay.

    Source:
        `truncate_encodings` of `tokenizers`, `utils/truncation.rs`.
    """
    excess = 0 if cut.strategy is None else first + second + heads - cut.length
    if excess <= 0:
        return first, second
    if cut.strategy == "only_first":
        first -= excess
    elif cut.strategy == "only_second":
        second -= excess
    else:
        room = cut.length - heads
        short, long = min(first, second), max(first, second)
        long = max(short, room - short)
        if short + long > room:
            short, long = room // 2, room // 2 + room % 2
        first, second = (long, short) if first > second else (short, long)
    if min(first, second) < 0:
        raise ValueError(
            explain(
                "The text that may be cut is too short to make the row fit.",
                fix="Use truncation='longest_first', or a larger `max_length`.",
                truncation=cut.strategy,
                max_length=cut.length,
            )
        )
    return first, second


def columns(encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Returns results of calls as one dictionary of lists of rows."""
    if not isinstance(encoded, Mapping):
        encoded = {key: [item[key] for item in encoded] for key in (encoded[0] if encoded else ())}
    if "input_ids" not in encoded:
        raise ValueError(
            explain(
                "There is nothing to pad without `input_ids`.",
                fix="Pass results of the tokenizer.",
                keys=list(encoded),
            )
        )
    result = {key: [ids(row) for row in value] for key, value in encoded.items()}
    result.setdefault("attention_mask", [[1] * len(row) for row in result["input_ids"]])
    return result


def pad(
    rows: dict[str, list[Any]],
    padding: bool | str,
    length: int | None,
    multiple: int | None,
    *,
    pad_token_id: int,
    side: str,
) -> dict[str, list[Any]]:
    """Returns columns whose rows all have the same length.

    Args:
        rows: Columns, `input_ids` among them.
        padding: `"max_length"`, or anything else for the longest row.
        length: Length for `"max_length"`.
        multiple: Rounds the length up.
        pad_token_id: What fills `input_ids`.
        side: `"left"` or `"right"`.

    Returns:
        The padded columns.

    Example:
        >>> pad({"input_ids": [[1], [2, 3]]}, True, None, None, pad_token_id=0, side="left")
        {'input_ids': [[0, 1], [2, 3]]}
    """
    check_choice("padding_side", side, SIDES)
    check_count("pad_to_multiple_of", multiple, least=1)
    longest = max((len(row) for row in rows["input_ids"]), default=0)
    width = length if padding == "max_length" and length is not None else longest
    width = -(-width // multiple) * multiple if multiple else width
    fill = _FILL | {"input_ids": pad_token_id, "offset_mapping": (0, 0)}

    def filled(key: str, row: Any) -> Any:
        if key not in fill:
            return row
        extra = [fill[key]] * max(width - len(row), 0)
        return [*extra, *row] if side == "left" else [*row, *extra]

    return {key: [filled(key, row) for row in column] for key, column in rows.items()}


def tensors(rows: dict[str, Any], kind: str | None) -> BatchEncoding:
    """Returns columns as lists, numpy arrays or TensorFlow tensors (int64 and int32)."""
    check_choice("return_tensors", kind, (None, "tf", "np"))
    if kind is None:
        return BatchEncoding(rows)
    lengths = {len(row) for row in rows["input_ids"]}
    if len(lengths) > 1:
        raise ValueError(
            explain(
                "Rows of different lengths do not fit into one tensor.",
                fix="Pass `padding=True`, and `truncation=True` for long rows.",
                lengths=sorted(lengths),
            )
        )
    arrays = {key: np.array(column, np.int64) for key, column in rows.items()}
    if not rows["input_ids"]:
        arrays = {key: np.zeros((0, 0), np.int64) for key in rows}
    if kind == "tf":
        return BatchEncoding({key: tf.constant(a, tf.int32) for key, a in arrays.items()})
    return BatchEncoding(arrays)


def ids(values: Any) -> list[int]:
    """Returns ids as a list of Python integers, whether they came as a list or a tensor."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(
            explain(
                "Token ids are integers.",
                fix="Pass what the tokenizer returned as `input_ids`.",
                token_ids=values,
            )
        )
    return array.reshape(-1).tolist() if array.ndim < 2 else array.tolist()


def clean_up(text: str) -> str:
    """Joins punctuation and contractions to the word before.

    Source:
        `PreTrainedTokenizerBase.clean_up_tokenization` of transformers.

    Example:
        >>> clean_up("it 's fine .")
        "it's fine."
    """
    for piece in _CLEAN_UP[:4]:
        text = text.replace(piece, piece[1:])
    text = text.replace(" ' ", "'")
    for piece in _CLEAN_UP[4:]:
        text = text.replace(piece, piece[1:])
    return text
