"""The text that each id of a model writes, for stop strings, constraints and streams.

This module does not import TensorFlow, so that other runtimes can use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class TokenTexts(NamedTuple):
    """The text of each id of a model.

    What a model writes is matched with special tokens written out as their content, and shown
    without them: a stop string may be `"<|end|>"` although no result ever holds it.

    Attributes:
        written: The bytes of each id, of a special token its content; empty beyond the vocabulary.
        special: The ids of special tokens.
    """

    written: tuple[bytes, ...]
    special: frozenset[int]

    @property
    def shown(self) -> tuple[bytes, ...]:
        """The bytes of each id in results; special tokens have none."""
        return tuple(
            b"" if token in self.special else text for token, text in enumerate(self.written)
        )

    def shown_before(self, tokens: Sequence[int], end: int) -> bytes:
        """The part of the written text before a place in it, as results show it.

        Args:
            tokens: Ids.
            end: Bytes of their written text.

        Example:
            >>> texts = TokenTexts((b"ab", b"<s>", b"c"), frozenset([1]))
            >>> texts.shown_before([0, 1, 2, 0], 7)
            b'abca'
        """
        pieces, begin = [], 0
        for token in tokens:
            text = self.written[token]
            if token not in self.special:
                pieces.append(text[: max(0, end - begin)])
            begin += len(text)
        return b"".join(pieces)
