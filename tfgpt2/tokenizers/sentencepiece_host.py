"""SentencePiece on the host: ids with their tokens and their places in the text.

The kernel is TF Text's, as in the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf
import tokenizers

from tfgpt2.tokenizers.sentencepiece import SentencepieceModel
from tfgpt2.tokenizers.text_rules import Aligned, Rule

Placed = tuple[int, int, int]  # id, start, end


class Encoding(NamedTuple):
    """What becomes of a text.

    Attributes:
        ids: Ids.
        tokens: Their tokens.
        offsets: Start and end of each in the text, in characters.
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]

    @property
    def word_ids(self) -> list[int | None]:
        """The number of the word that each token belongs to: one that begins with a space."""
        numbers, word = [], -1
        for place, token in enumerate(self.tokens):
            word += place == 0 or token.startswith("\u2581")
            numbers.append(word)
        return numbers


class SentencePieceHost(NamedTuple):
    """A SentencePiece family on the host.

    Attributes:
        kernel: The model.
        tokens: Id to token.
        added: Ids of the added tokens.
        rules: What happens to a text first.
        expansions: The ids that take the place of some ids.
    """

    kernel: SentencepieceModel
    tokens: Mapping[int, str]
    added: Sequence[int]
    rules: Sequence[Rule]
    expansions: Mapping[int, list[int]]

    def encode(self, cutter: tokenizers.Tokenizer, texts: Sequence[str]) -> list[Encoding]:
        """Returns the encodings of texts.

        Args:
            cutter: What cuts out added tokens, and takes each part between them for one token.
            texts: The texts.
        """
        added, rows = set(self.added), []
        cut = cutter.encode_batch(list(texts), add_special_tokens=False)
        for text, found in zip(texts, cut, strict=True):
            rows.append([])
            for token_id, (start, end) in zip(found.ids, found.offsets, strict=True):
                part = Aligned.of(text[start:end], start)
                if token_id in added:
                    rows[-1].append((token_id, start, end))
                    continue
                rows[-1].append(functools.reduce(Aligned.apply, self.rules, part))
        parts = [part for row in rows for part in row if isinstance(part, Aligned)]
        encoded = self._encode_parts(parts)
        result = []
        for row in rows:
            placed = [
                one
                for part in row
                for one in (next(encoded) if isinstance(part, Aligned) else [part])
            ]
            ids = [token_id for token_id, _, _ in placed]
            offsets = [(start, end) for _, start, end in placed]
            result.append(Encoding(ids, [self.tokens[i] for i in ids], offsets))
        return result

    def _encode_parts(self, parts: Sequence[Aligned]) -> Iterator[list[Placed]]:
        """Yields ids with their places in the original text, for each part."""
        if not parts:
            return
        with tf.device("CPU:0"):
            columns = self.kernel.tokenize_with_offsets(tf.constant([part.text for part in parts]))
        for part, *rows in zip(parts, *(one.to_list() for one in columns), strict=True):
            # Of each byte, the character that it belongs to.
            places = [i for i, char in enumerate(part.text) for _ in char.encode()]
            places.append(len(part.text))
            yield [
                (one, *part.span(places[start], places[end]))
                for token, start, end in zip(*rows, strict=True)
                for one in self.expansions.get(token, [token])
            ]
