"""Notebooks made from pages: text, Python blocks with the output that they print, shell blocks.

A page remains the source: `site_hooks` writes a notebook beside each tutorial of the site.

    python docs/notebooks.py docs/tutorials/learn-gpt2.md learn-gpt2.ipynb
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*\n?", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (not run|raises|run|server|own process)(?:: .*?)? -->\s*\Z")
_LANGUAGES = {"python": "", "sh": "%%bash\n"}  # to the first line of a cell


def notebook(page: str) -> dict[str, Any]:
    r"""Turns a page into a notebook.

    Args:
        page: Markdown. A block of `text` right after code is what the code prints. Blocks marked
            `<!-- not run ... -->` stay text.

    Returns:
        A notebook of format 4.5, as it stands in its JSON file.

    Example:
        >>> page = "# Sum\n```python\nprint(1 + 1)\n```\n```text\n2\n```\n"
        >>> text, code = notebook(page)["cells"]
        >>> text["source"], code["source"], code["outputs"][0]["text"]
        ('# Sum', 'print(1 + 1)', '2\n')
    """
    cells = list(_cells(page))
    for number, cell in enumerate(cells):
        digest = hashlib.sha256(f"{number} {cell['source']}".encode()).hexdigest()
        cell["id"] = digest[:8]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cells(page: str) -> Iterator[dict[str, Any]]:
    """Cells in the order of the page; neighbouring texts are one."""
    text, code = "", None
    end = 0
    for match in _FENCE.finditer(page):
        before, end = page[end : match.start()], match.end()
        language, content = match.groups()
        if language == "text" and code is not None and not before.strip():
            code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": content}]
            continue
        if code is not None:
            yield code
            code = None
        mark = _MARK.search(before)
        kind = mark[1] if mark else ""
        text += _MARK.sub("", before)
        if language not in _LANGUAGES or kind in ("not run", "server"):
            text += match[0]
            continue
        if text.strip():
            yield _markdown(text)
        text = ""
        tags = {"tags": ["raises-exception"]} if kind == "raises" else {}
        code = {
            "cell_type": "code",
            "execution_count": None,
            "metadata": tags,
            "outputs": [],
            "source": _LANGUAGES[language] + content.rstrip("\n"),
        }
    if code is not None:
        yield code
    if (text + page[end:]).strip():
        yield _markdown(text + page[end:])


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip("\n")}


def write(page: str) -> str:
    """The file of a page's notebook, as text."""
    return json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the notebook of a page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("notebook", type=Path)
    options = parser.parse_args()
    options.notebook.write_text(write(options.page.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
