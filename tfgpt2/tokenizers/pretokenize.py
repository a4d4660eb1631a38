r"""Segments of text to pre-tokens, inside the graph: GPT-2's pattern without its look-ahead.

GPT-2 splits text with `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
RE2, TensorFlow's engine, has no look-ahead, so the one place where it matters, a run of white space
before a word, is cut first.

Everything here is a pure function of string tensors. `S` is the number of segments, `W` of
pre-tokens.
"""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.tokenizers.segments import CUT, SPECIAL, Rows, keep_special, split_at_cuts
from tfgpt2.tokenizers.unicode_classes import LETTERS, NUMBERS, WHITE_SPACE, character_class

_SPACE, _LETTER, _NUMBER = map(character_class, (WHITE_SPACE, LETTERS, NUMBERS))

# The last character of a run of white space goes with the word that follows; neither bracket can
# match CUT, so a run that ends at an added token or at the end of the text stays whole.
_LOOK_AHEAD = f"([{_SPACE}])([{_SPACE}][^{_SPACE}])"
_PATTERN = (
    f"'(?:[sdmt]|ll|ve|re)| ?[{_LETTER}]+| ?[{_NUMBER}]+"
    f"| ?[^{_SPACE}{_LETTER}{_NUMBER}]+|[{_SPACE}]+"
)


def prefix_space(text: tf.Tensor) -> tf.Tensor:
    """Puts a space before each segment of text that does not start with one.

    Args:
        text: Non-empty segments `[S]`; added tokens stay as they are.

    Returns:
        String tensor `[S]`.

    Source:
        `add_prefix_space` of `ByteLevel` in `tokenizers`.

    Example:
        >>> prefix_space(tf.constant(["a", " b"])).numpy().tolist()
        [b' a', b' b']
    """
    first = tf.strings.substr(text, 0, 1, unit="BYTE")
    keep = tf.equal(first, b" ") | tf.equal(first, SPECIAL)
    return tf.where(keep, text, tf.strings.join([b" ", text]))


def split_words(text: Rows, has_special: bool) -> Rows:
    """Splits segments of text into GPT-2's pre-tokens.

    Args:
        text: Segments `[S]` of valid UTF-8, or `SPECIAL` and an added token.
        has_special: Whether any segment may be an added token; False saves a pass.

    Returns:
        Pre-tokens `[W]` with the row splits of the input's rows.

    Example:
        >>> rows = Rows(tf.constant(["Hello  world"]), tf.constant([0, 1], tf.int64))
        >>> split_words(rows, has_special=False).values.numpy().tolist()
        [b'Hello', b' ', b' world']
    """
    cut = tf.strings.regex_replace(text.values, _LOOK_AHEAD, rb"\1" + CUT + rb"\2")
    cut = tf.strings.regex_replace(cut, _PATTERN, rb"\0" + CUT)
    return split_at_cuts(keep_special(text, cut) if has_special else text._replace(values=cut))
