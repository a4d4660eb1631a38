"""Rename the section `Example:` of docstrings to `Examples:`, which the site renders as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_HEADING = re.compile(r"^Example:[ \t]*$", re.MULTILINE)


class ExampleSections(griffe.Extension):
    """Griffe extension that renames the heading."""

    def on_object(self, *, obj: griffe.Object, **unused: Any) -> None:
        """Rename the heading in one docstring."""
        if obj.docstring:
            obj.docstring.value = _HEADING.sub("Examples:", obj.docstring.value)
