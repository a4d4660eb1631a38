"""Version numbers of a model, as TensorFlow Serving reads them from the names of directories."""

from __future__ import annotations

import re

LARGEST_VERSION = 2**63 - 1
# Source: absl/strings/numbers.cc, which tensorflow/serving's ParseVersionNumber calls.
_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*([0-9]{1,19})[ \t\n\v\f\r]*")


def parse_version(text: str) -> int | None:
    """Reads a version number: 64 bits, leading zeros and a sign allowed.

    Args:
        text: The name of a directory, or a part of a URL; of any length.

    Returns:
        The number; None if the text is none.

    Example:
        >>> parse_version("007"), parse_version("1.part"), parse_version("9223372036854775808")
        (7, None, None)
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    number = int(match[1] + match[2])
    return number if -LARGEST_VERSION - 1 <= number <= LARGEST_VERSION else None
