"""Writes the table of generation options into `docs/generation.md`.

    python docs/make_option_table.py

Each option's owner holds its default and what it does here (`tfgpt2.generation.options.Option`);
`tests/generation/test_option_table.py` compares the page with them.
"""

from __future__ import annotations

import re
from pathlib import Path

from tfgpt2.generation.option_table import OPTIONS
from tfgpt2.generation.options import UNSUPPORTED

PAGE = Path(__file__).parent / "generation.md"


def table() -> str:
    """The rows of all options, with transformers' that are not supported at the end."""
    rows = [(name, option.default, option.help) for name, option in OPTIONS.items()]
    for name, (neutral, fix) in UNSUPPORTED.items():
        rows.append((name, neutral[0], f"raises. {fix}"))
    lines = [f"| `{name}` | {_shown(default)} | {text} |" for name, default, text in rows]
    return "\n".join(["| option | default | here |", "|---|---|---|", *lines]) + "\n"


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def main() -> None:
    """Replaces the table of the page."""
    page = PAGE.read_text(encoding="utf-8")
    old = re.search(r"^\| option \| default \| here \|\n(\|.*\n)+", page, re.M).group(0)
    PAGE.write_text(page.replace(old, table()), encoding="utf-8")


if __name__ == "__main__":
    main()
