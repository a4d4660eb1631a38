"""The slow twin of the split at added tokens: plain Python, one character after the other."""

from tfgpt2.tokenizers.unicode_classes import LETTERS, WHITE_SPACE, WORD_PARTS, ranges

SPACES = {chr(c) for first, last in ranges(WHITE_SPACE) for c in range(first, last + 1)}
WORD = {
    chr(c)
    for table in (LETTERS, WORD_PARTS)
    for first, last in ranges(table)
    for c in range(first, last + 1)
}


def split(text, tokens):
    """The segments of a text: (text, None) or (text of a token, the token).

    Args:
        text: The text.
        tokens: `AddedToken`s.

    Raises:
        OverflowError: `tokenizers` fails on this text.
    """
    segments = [(text, None)] if text else []
    for normalized in (False, True):
        some = {token.content: token for token in tokens if token.normalized == normalized}
        split_up = [
            [one] if one[1] is not None or not some else _split(one[0], some) for one in segments
        ]
        segments = [segment for part in split_up for segment in part]
    return segments


def _split(text, tokens):
    segments, before, end_before = [], None, 0
    for start, token in _find(text, tokens):
        gap, end = text[end_before:start], start + len(token.content)
        taken = before is not None and before.rstrip and token.lstrip
        taken = taken and SPACES.issuperset(gap + token.content)
        if taken and not token.rstrip and text[end : end + 1] in SPACES:
            raise OverflowError(text)
        segments.append((_strip(gap, before, token), None))
        segments += [] if taken else [(token.content, token)]
        before, end_before = token, end
    segments.append((_strip(text[end_before:], before, None), None))
    return [segment for segment in segments if segment[0]]


def _find(text, tokens):
    longest_first = sorted(tokens, key=lambda content: -len(content.encode()))
    start = 0
    while start < len(text):
        content = next((c for c in longest_first if text.startswith(c, start)), None)
        if content is None:
            start += 1
            continue
        end = start + len(content)
        inside = text[max(start - 1, 0) : start] in WORD or text[end : end + 1] in WORD
        if not (tokens[content].single_word and inside):
            yield start, tokens[content]
        start = end


def _strip(gap, before, after):
    if before is not None and before.rstrip:
        gap = gap.lstrip("".join(SPACES))
    if after is not None and after.lstrip:
        gap = gap.rstrip("".join(SPACES))
    return gap
