"""Texts changed character by character inside the graph, by tables of code points.

`N` is the number of texts, `C` of characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

SPACE = 0x20
_PAGE = 256  # also more than any combining class
_SAME, _SPACED = 0, 1  # numbers of changes: the character itself, and with spaces around it


class Tables(NamedTuple):
    """Changes of characters as arrays: a number for each code point, and what the numbers mean.

    The numbers have two levels: the page of a code point, then its place in the page; pages that
    are equal are stored once.

    Attributes:
        pages: int32, where the page of each 256 code points begins in `numbers`.
        numbers: int32.
        starts: int32, where the characters of each number begin in `pool`.
        counts: int32, how many they are.
        pool: int32, code points.
    """

    pages: np.ndarray
    numbers: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    pool: np.ndarray


def make_tables(
    changes: Mapping[int, tuple[int, ...]], others: tuple[int, ...] | None = None
) -> Tables:
    """Returns changes as arrays.

    Args:
        changes: From a code point to what takes its place.
        others: What takes the place of other code points; None leaves them as they are.
    """
    starts, counts, pool = [0, 0], [1, 3], []
    known: dict[tuple[int, ...], int] = {}

    def number(code: int | None, codes: tuple[int, ...]) -> int:
        if codes == (SPACE, code, SPACE):
            return _SPACED
        if codes == (code,):
            return _SAME
        if codes not in known:
            known[codes] = len(starts)
            starts.append(len(pool))
            counts.append(len(codes))
            pool.extend(codes)
        return known[codes]

    numbers = {code: number(code, codes) for code, codes in changes.items()}
    pages = _make_pages(numbers, _SAME if others is None else number(None, others))
    return Tables(*pages, *(np.array(values, np.int32) for values in (starts, counts, pool)))


def _make_pages(numbers: Mapping[int, int], others: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns `pages` and `numbers` of `Tables`."""
    flat = np.full([0x110000], others, np.int32)
    flat[list(numbers)] = list(numbers.values())
    place: dict[bytes, int] = {}
    rows = [row.tobytes() for row in flat.reshape(-1, _PAGE)]
    pages = np.array([place.setdefault(row, len(place)) for row in rows], np.int32) * _PAGE
    return pages, np.frombuffer(b"".join(place), np.int32)


class CodePointMap(tf.Module):
    """What becomes of each character: several characters, one, or none.

    Args:
        tables: See `make_tables`.
        marks: Combining classes, 1 or more, by which neighbouring marks are sorted afterwards.

    Example:
        >>> upper = CodePointMap(make_tables({ord("a"): (ord("A"),), ord("-"): ()}))
        >>> upper(tf.constant(["a-b"])).numpy().tolist()
        [b'Ab']
    """

    def __init__(self, tables: Tables, marks: Mapping[int, int] | None = None) -> None:
        super().__init__()
        pages, numbers, self._starts, self._counts, self._pool = map(tf.constant, tables)
        self._numbers = pages, numbers
        self._classes = tuple(map(tf.constant, _make_pages(marks))) if marks else None

    def __call__(self, text: tf.Tensor) -> tf.Tensor:
        """Changes texts.

        Args:
            text: string `[N]`, UTF-8.

        Returns:
            string `[N]`.
        """
        codes = tf.strings.unicode_decode(text, "UTF-8")  # [N, (C)]
        code = codes.flat_values  # [C]
        number = _look_up(self._numbers, code)  # [C]
        space = tf.fill(tf.shape(code), SPACE)
        spaced = tf.reshape(tf.stack([space, code, space], axis=1), [-1])  # [3 C]
        pool = tf.concat([self._pool, spaced], axis=0)
        own = tf.size(self._pool) + 3 * tf.range(tf.size(code)) + (1 - number)
        starts = tf.where(number > _SPACED, tf.gather(self._starts, number), own)  # [C]
        spans = tf.ragged.range(starts, starts + tf.gather(self._counts, number))
        changed = tf.RaggedTensor.from_row_splits(
            tf.gather(pool, spans.values),
            tf.gather(tf.cast(spans.row_splits, tf.int64), codes.row_splits),
            validate=False,
        )  # [N, (C)]
        if self._classes is not None:
            changed = changed.with_values(self._sort_marks(changed))
        return tf.strings.unicode_encode(changed, "UTF-8")

    def _sort_marks(self, text: tf.RaggedTensor) -> tf.Tensor:
        """Returns the code points `[C]` with neighbouring marks in the order of their classes."""
        kind = _look_up(self._classes, text.values)  # [C], 0 is no mark
        # A run is a character and the marks after it, in one text.
        run = tf.cumsum(tf.cast(kind == 0, tf.int64)) + text.value_rowids()  # [C]
        wrong = (kind[1:] > 0) & (kind[:-1] > kind[1:]) & (run[1:] == run[:-1])

        def sort() -> tf.Tensor:
            order = tf.argsort(run * _PAGE + tf.cast(kind, tf.int64), stable=True)
            return tf.gather(text.values, order)

        return tf.cond(tf.reduce_any(wrong), sort, lambda: text.values)


def _look_up(pages: tuple[tf.Tensor, tf.Tensor], codes: tf.Tensor) -> tf.Tensor:
    """Returns the numbers of code points, see `Tables`."""
    return tf.gather(pages[1], tf.gather(pages[0], codes // _PAGE) + codes % _PAGE)
