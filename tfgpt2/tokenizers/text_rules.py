r"""What tokenizer classes of transformers do to a text before SentencePiece sees it.

Each rule stands twice: as operations in the graph, for texts `[N]` of valid UTF-8, and in Python as
parts of a text and what becomes of them, from which offsets in the original text follow.

Source: `tokenization_t5.py`, `tokenization_albert.py`, `tokenization_gpt_sw3.py` and
`PreTrainedTokenizer.tokenize` of transformers 4.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_text.python.ops import normalize_ops

_LAST_CASED = 0x1FFFF  # No character above it has another lower case.
_DOTTED_I = "\u0130"  # The one character whose lower case is two.
_BLOCK = 128  # characters that share a line of the table of lower case

# Of GPT-SW3: control characters, the no-break space, the soft hyphen and the zero width space go.
_NON_PRINTING = [*range(9), *range(11, 32), *range(127, 161), 173, 8203]
_ODD_SPACES = "\u2002\u2003\u2005\u2008\u2009\u200a\u202f\u3000\ufffc"
# What `str.split` splits at.
_PYTHON_SPACES = [code for code in range(0x3001) if chr(code).isspace()]
_LAST_MARK = 0x1FFFF  # No combining character stands above it.


class Rule(NamedTuple):
    """A change of texts.

    Attributes:
        graph: From string `[N]` to string `[N]`.
        parts: From a text to its parts, each with the text that it becomes.
    """

    graph: Callable[[tf.Tensor], tf.Tensor]
    parts: Callable[[str], Iterable[tuple[str, str]]]


class Aligned(NamedTuple):
    """A changed text, with the place in the original that each character comes from.

    Attributes:
        text: The text.
        spans: First and last place, exclusive, of each character.
    """

    text: str
    spans: list[tuple[int, int]]

    @classmethod
    def of(cls, text: str, start: int = 0) -> Aligned:
        """Returns an unchanged text that begins at a place."""
        return cls(text, [(place, place + 1) for place in range(start, start + len(text))])

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Returns where a part of the text comes from; an empty one, from after the one before."""
        if start < end:
            return self.spans[start][0], self.spans[end - 1][1]
        place = self.spans[start - 1][1] if start else self.spans[0][0]
        return place, place

    def apply(self, rule: Rule) -> Aligned:
        """Returns the text after a rule.

        Example:
            >>> Aligned.of("a``").apply(straight_quotes())
            Aligned(text='a"', spans=[(0, 1), (1, 3)])
        """
        place, texts, spans = 0, [], []
        for before, after in rule.parts(self.text):
            if after:
                last = self.spans[place + len(before) - 1]
                spans += [(self.spans[place][0], last[1])] * len(after)
                texts.append(after)
            place += len(before)
        return Aligned("".join(texts), spans)


def lower_characters() -> Rule:
    """Lower-cases each character by itself, without a look at its neighbours.

    `str.lower` of a whole text writes the last sigma of a word as "ς"; here it is always "σ".
    """
    rows, lines = _lower_table()

    def graph(text: tf.Tensor) -> tf.Tensor:
        text = tf.strings.regex_replace(text, _DOTTED_I, _DOTTED_I.lower())
        points = tf.strings.unicode_decode(text, "UTF-8")  # [N, (characters)]
        flat = points.flat_values
        row = tf.gather(tf.constant(rows), tf.minimum(flat // _BLOCK, len(rows) - 1))
        change = tf.gather(tf.constant(lines), row * _BLOCK + flat % _BLOCK)
        return tf.strings.unicode_encode(points.with_flat_values(flat + change), "UTF-8")

    return Rule(graph, lambda text: ((char, char.lower()) for char in text))


def straight_quotes() -> Rule:
    """Writes two grave accents, and two apostrophes, as one quotation mark."""

    def graph(text: tf.Tensor) -> tf.Tensor:
        return tf.strings.regex_replace(text, "``|''", '"')

    return Rule(graph, lambda text: _replace(text, "``|''", '"'))


def single_spaces() -> Rule:
    """Writes each run of white space as one space, and none at the ends."""
    inside = _character_class(_PYTHON_SPACES)

    def graph(text: tf.Tensor) -> tf.Tensor:
        text = tf.strings.regex_replace(text, f"[{inside}]+", " ")
        return tf.strings.regex_replace(text, "^ | $", "")

    def parts(text: str) -> Iterator[tuple[str, str]]:
        place = 0
        for run in re.findall(r"\s+|\S+", text):
            place += len(run)
            at_end = place in (len(run), len(text))
            if run.isspace():
                yield run, "" if at_end else " "
            else:
                yield from ((char, char) for char in run)

    return Rule(graph, parts)


def without_accents() -> Rule:
    """Decomposes characters (NFKD) and drops combining marks."""
    marks = [code for code in range(_LAST_MARK) if unicodedata.combining(chr(code))]
    inside = _character_class(marks)

    def graph(text: tf.Tensor) -> tf.Tensor:
        return tf.strings.regex_replace(_normalize(text, "NFKD"), f"[{inside}]+", "")

    def strip(char: str) -> str:
        decomposed = unicodedata.normalize("NFKD", char)
        return "".join(char for char in decomposed if not unicodedata.combining(char))

    # The order of marks does not matter: they all go.
    return Rule(graph, lambda text: ((char, strip(char)) for char in text))


def printable() -> Rule:
    """Drops what does not print, and writes odd spaces as spaces."""
    dropped, spaces = _character_class(_NON_PRINTING), _character_class(map(ord, _ODD_SPACES))
    table = str.maketrans(dict.fromkeys(_ODD_SPACES, " ") | dict.fromkeys(map(chr, _NON_PRINTING)))

    def graph(text: tf.Tensor) -> tf.Tensor:
        text = tf.strings.regex_replace(text, f"[{dropped}]+", "")
        return tf.strings.regex_replace(text, f"[{spaces}]", " ")

    return Rule(graph, lambda text: ((char, char.translate(table)) for char in text))


def composed() -> Rule:
    """Composes characters (NFC)."""

    def parts(text: str) -> Iterator[tuple[str, str]]:
        for cluster in _clusters().findall(text):
            yield cluster, unicodedata.normalize("NFC", cluster)

    return Rule(lambda text: _normalize(text, "NFC"), parts)


def _replace(text: str, pattern: str, by: str) -> Iterator[tuple[str, str]]:
    """Yields the parts of a text where a pattern is replaced."""
    place = 0
    for match in re.finditer(pattern, text):
        yield from ((char, char) for char in text[place : match.start()])
        yield match[0], by
        place = match.end()
    yield from ((char, char) for char in text[place:])


@functools.cache
def _clusters() -> re.Pattern[str]:
    """Returns what finds a character and those after it that it may be composed with.

    Those are combining marks, the vowels and final consonants of Hangul, and whatever stands second
    in a decomposition.
    """
    joins = {chr(code) for code in range(0x1161, 0x1200)}
    for code in range(_LAST_MARK):
        if unicodedata.combining(chr(code)):
            joins.add(chr(code))
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            joins.add(chr(int(parts[1], 16)))
    inside = "".join(map(re.escape, sorted(joins)))
    return re.compile(f"(?s:.)[{inside}]*")


def _normalize(text: tf.Tensor, form: str) -> tf.Tensor:
    """Returns texts in a normalization form; ASCII stays as it is."""
    return normalize_ops.normalize_utf8(text, form)


def _character_class(codes: Iterable[int]) -> str:
    """Returns the inside of an RE2 character class of code points in ascending order."""
    spans: list[list[int]] = []
    for code in codes:
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in spans)


@functools.cache
def _lower_table() -> tuple[np.ndarray, np.ndarray]:
    """Returns how far lower case is from each character.

    Returns:
        int32 `[blocks + 1]`, the line of each block of characters, 0 for the last; int32
        `[lines * _BLOCK]`, what is added to each character of a line, 0 in the first.
    """
    codes = range(_LAST_CASED + 1)
    change = np.array(
        [ord(chr(c).lower()) - c if c != ord(_DOTTED_I) and not 0xD800 <= c < 0xE000 else 0
         for c in codes], np.int32
    )  # fmt: skip
    blocks = np.concatenate([np.zeros([1, _BLOCK], np.int32), change.reshape(-1, _BLOCK)])
    lines, rows = np.unique(blocks, axis=0, return_inverse=True)
    order = np.argsort(np.arange(len(lines)) != rows[0], kind="stable")  # the line of zeros first
    rank = np.argsort(order)
    rows = rank[rows.reshape(-1)].astype(np.int32)
    return np.append(rows[1:], np.int32(0)), lines[order].reshape(-1)
