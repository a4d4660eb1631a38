"""Rows of the host tokenizer: joined, cut, padded, made into tensors. Plain functions of lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.tokenizer.inputs import check_choice, check_count, check_names
from tfgpt2.tokenizer.spec import SIDES, Spec

__all__ = [
    "BatchEncoding",
    "Cut",
    "check_names",
    "clean_up",
    "columns",
    "ids",
    "join",
    "pad",
    "tensors",
    "texts",
]

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
    seconds = [pair] if single else ([None] * len(firsts) if pair is None else pair)
    for name, values in (("text", firsts), ("text_pair", seconds)):
        allowed = str if name == "text" else (str, type(None))
        if not isinstance(values, (list, tuple)) or not all(isinstance(v, allowed) for v in values):
            raise TypeError(
                explain(
                    f"`{name}` must be a string or a list of strings.",
                    fix="Decode bytes first; tensors go to `TFGPT2Tokenizer`.",
                    **{name: text if name == "text" else pair},
                )
            )
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
    """Returns how many tokens of each text stay."""
    excess = 0 if cut.strategy is None else first + second + heads - cut.length
    if excess <= 0:
        return first, second
    if cut.strategy == "only_first":
        first, excess = max(first - excess, 0), excess - first
    elif cut.strategy == "only_second":
        second, excess = max(second - excess, 0), excess - second
    else:
        room = cut.length - heads
        # The longer text gives way until both are equally long; the first gets an odd place.
        shorter = min(first, second, room // 2)
        first, second = (
            (max(room - second, room - room // 2), shorter)
            if first > second
            else (shorter, room - shorter)
        )
        excess = -room
    if excess > 0:
        raise ValueError(
            explain(
                "The text that may be cut is too short to make the row fit.",
                fix="Use truncation='longest_first', or a larger `max_length`.",
                truncation=cut.strategy,
                max_length=cut.length,
            )
        )
    return first, second
