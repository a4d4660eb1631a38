"""Unicode's normal forms in the graph, as the `tokenizers` library computes them on the host.

TF Text's `NormalizeUTF8` knows a newer Unicode than `tokenizers`, whose tables end with version 9:
to the host, U+32FF is a character like any other, and to the operation it is 令和. So what the host
leaves alone is kept out of the operation, which normalizes the parts between. To the host such
characters combine with nothing, so the parts do not depend on each other.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_text as tf_text
import tokenizers

from tfgpt2.tokenizers.segments import CUT

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_LOW, _HIGH = "\u0334", "\u0301"  # marks of the combining classes 1 and 230


class NormalForm(tf.Module):
    """The operations of a normal form.

    Args:
        form: One of `FORMS`.
    """

    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = form
        left_alone = _character_class(inert_characters())
        self._any, self._one = f"(?s).*[{left_alone}].*", f"[{left_alone}]"
        self._marked = f"([{left_alone}])"

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """Returns normalized strings `[S]`, given valid UTF-8."""

        def in_parts() -> tf.Tensor:
            marked = tf.strings.regex_replace(values, self._marked, CUT + rb"\1" + CUT)
            parts = tf.strings.split(marked, CUT)  # [S, (P)]
            kept = tf.strings.regex_full_match(parts.values, self._one)
            flat = tf.where(kept, parts.values, self._operation(parts.values))
            return tf.strings.reduce_join(parts.with_values(flat), axis=-1)

        newer = tf.reduce_any(tf.strings.regex_full_match(values, self._any))
        return tf.cond(newer, in_parts, lambda: self._operation(values))

    def _operation(self, values: tf.Tensor) -> tf.Tensor:
        return tf_text.normalize_utf8(values, self._form)


def split_form(steps: Sequence[Mapping[str, Any]]) -> tuple[str | None, list[Mapping[str, Any]]]:
    """Splits a file's normalizer into the normal form that it begins with, or None, and the rest.

    Example:
        >>> split_form([{"type": "NFKC"}, {"type": "Strip"}])
        ('NFKC', [{'type': 'Strip'}])
    """
    begins = bool(steps) and steps[0]["type"] in FORMS
    return (steps[0]["type"] if begins else None), list(steps[begins:])


def host_normalizer(form: str) -> tokenizers.normalizers.Normalizer:
    """The normal form of `tokenizers`."""
    return getattr(tokenizers.normalizers, form)()


@functools.cache
def inert_characters() -> tuple[int, ...]:
    """Code points that the host leaves alone and a newer Unicode may not, sorted.

    These are the ones that Python's own Unicode has not assigned, and those that it decomposes,
    sorts or composes while the host does not.

    Example:
        >>> 0x32FF in inert_characters(), 0xFF21 in inert_characters()
        (True, False)
    """
    host = host_normalizer("NFKD")

    def is_inert(character: str) -> bool:
        texts = (character, character + _LOW, _HIGH + character)
        return all(host.normalize_str(text) == text for text in texts)

    found = set()
    for code in itertools.chain(range(0xD800), range(0xE000, 0x110000)):
        character = chr(code)
        if unicodedata.category(character) == "Cn":
            found.add(code)
            continue
        parts = unicodedata.decomposition(character)
        if (parts or unicodedata.combining(character)) and is_inert(character):
            found.add(code)
            if not parts.startswith("<"):  # parts that are as new compose only where it is known
                found |= {int(p, 16) for p in parts.split() if is_inert(chr(int(p, 16)))}
    return tuple(sorted(found))


def _character_class(codes: tuple[int, ...]) -> str:
    """The inside of an RE2 character class."""
    return "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in _ranges(codes))


def _ranges(codes: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The first and the last of each run of code points."""
    for _, run in itertools.groupby(enumerate(codes), lambda pair: pair[1] - pair[0]):
        numbers = [code for _, code in run]
        yield numbers[0], numbers[-1]
