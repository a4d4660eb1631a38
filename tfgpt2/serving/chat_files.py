"""What an export says about conversations: a chat template, and the special tokens it can name.

The files are those of a tokenizer, in `assets.extra`, which TensorFlow Serving does not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tfgpt2.errors import value_error
from tfgpt2.files import read_json_object

TEMPLATE_FILE = Path("assets.extra", "chat_template.jinja")
TOKENS_FILE = Path("assets.extra", "special_tokens_map.json")


def write_chat_files(
    directory: Path,
    template: str | Mapping[str, str] | None,
    special_tokens: Mapping[str, str],
) -> None:
    """Writes them into a version directory.

    Args:
        directory: The version directory.
        template: A jinja2 template; of several by name, the one called `default` is written.
        special_tokens: Role or name to token.
    """
    (directory / "assets.extra").mkdir(exist_ok=True)
    tokens = json.dumps(dict(special_tokens), ensure_ascii=False, indent=2)
    (directory / TOKENS_FILE).write_text(tokens + "\n", encoding="utf-8")
    if isinstance(template, Mapping):
        template = template.get("default")
    if template is not None:
        (directory / TEMPLATE_FILE).write_text(template, encoding="utf-8")


def read_chat_files(directory: Path) -> tuple[str | None, dict[str, str]]:
    """Reads them from a version directory.

    Args:
        directory: The version directory.

    Returns:
        The template, None if there is none, and the special tokens.

    Raises:
        ValueError: The file of special tokens is damaged.
    """
    template, tokens = directory / TEMPLATE_FILE, directory / TOKENS_FILE
    found = read_json_object(tokens, "file of special tokens") if tokens.is_file() else {}
    if not all(isinstance(token, str) for token in found.values()):
        raise value_error(
            f"`{TOKENS_FILE}` must be an object of texts.",
            fix="Export the version again.",
            special_tokens=found,
        )
    return template.read_text("utf-8") if template.is_file() else None, found
