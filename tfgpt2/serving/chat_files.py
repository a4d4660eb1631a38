"""What an export says about conversations: chat templates, and the special tokens they can name.

The files are those of a tokenizer, in `assets.extra`, which TensorFlow Serving does not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tfgpt2.chat_template import MORE_TEMPLATES, TEMPLATE_NAME, template_path
from tfgpt2.errors import value_error
from tfgpt2.files import read_json_object

TOKENS_FILE = Path("assets.extra", "special_tokens_map.json")


def write_chat_files(
    directory: Path,
    template: str | Mapping[str, str] | None,
    special_tokens: Mapping[str, str],
) -> None:
    """Writes them into a version directory.

    Args:
        directory: The version directory.
        template: A jinja2 template, or several by name.
        special_tokens: Role or name to token.

    Raises:
        ValueError: The name of a template is no file's name.
    """
    folder = directory / TOKENS_FILE.parent
    folder.mkdir(exist_ok=True)
    tokens = json.dumps(dict(special_tokens), ensure_ascii=False, indent=2)
    (directory / TOKENS_FILE).write_text(tokens + "\n", encoding="utf-8")
    named = {"default": template} if isinstance(template, str) else template or {}
    for name, text in named.items():
        path = folder / template_path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def read_chat_files(directory: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Reads them from a version directory.

    Args:
        directory: The version directory.

    Returns:
        The templates by name, and the special tokens.

    Raises:
        ValueError: The file of special tokens is damaged.
    """
    tokens = directory / TOKENS_FILE
    found = read_json_object(tokens, "file of special tokens") if tokens.is_file() else {}
    if not all(isinstance(token, str) for token in found.values()):
        raise value_error(
            f"`{TOKENS_FILE}` must be an object of texts.",
            fix="Export the version again.",
            special_tokens=found,
        )
    return read_templates(tokens.parent), found


def read_templates(folder: Path) -> dict[str, str]:
    """Reads the chat templates of a folder with a tokenizer's files, by name."""
    default = folder / TEMPLATE_NAME
    paths = {"default": default} if default.is_file() else {}
    paths |= {path.stem: path for path in sorted((folder / MORE_TEMPLATES).glob("*.jinja"))}
    return {name: path.read_text("utf-8") for name, path in paths.items()}
