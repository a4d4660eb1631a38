"""Makes the docstrings' `Example:` the section `Examples:`, which the site shows as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_HEADING = re.compile(r"^Example:[ \t]*$", re.MULTILINE)


class ExampleSections(griffe.Extension):
    """Renames the heading; the docstring has been dedented by then."""

    def on_object(self, *, obj: griffe.Object, **unused: Any) -> None:
        """Changes one docstring."""
        if obj.docstring:
            obj.docstring.value = _HEADING.sub("Examples:", obj.docstring.value)
