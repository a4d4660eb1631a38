"""The files of chat templates: one of its own, a folder, or the tokenizer's configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfgpt2.chat_template import MORE_TEMPLATES, TEMPLATE_NAME, template_path
from tfgpt2.hub import Repository
from tfgpt2.tokenizers.json_files import read_json, read_text


def read_chat_template(
    repository: Repository, config: Mapping[str, Any]
) -> str | dict[str, str] | None:
    """Reads a tokenizer's chat templates, from files of their own or from its configuration.

    Args:
        repository: Where the files are.
        config: The contents of `tokenizer_config.json`, where templates by name are a list.

    Raises:
        ValueError: A file is damaged.
    """
    path = repository.find(TEMPLATE_NAME)
    folder = repository.local if path is None else path.parent  # a hub's cannot be listed
    more = [] if folder is None else sorted((folder / MORE_TEMPLATES).glob("*.jinja"))
    named = {file.stem: read_text(file) for file in more}
    if path is not None:
        return {"default": read_text(path)} | named if named else read_text(path)
    if named:
        return named
    found = config.get("chat_template")
    if isinstance(found, list) and all(isinstance(one, Mapping) for one in found):
        return {one.get("name"): one.get("template") for one in found}
    return found


def write_chat_template(
    template: str | Mapping[str, str] | None, directory: Path, *, own_file: bool = True
) -> list[Path]:
    """Writes chat templates where transformers finds them.

    Args:
        template: The template, or several by name.
        directory: Where the tokenizer's files are.
        own_file: Whether templates have files of their own; else they go into the configuration.

    Returns:
        The paths of those files.

    Raises:
        ValueError: A name is no file's name.
    """
    if template is None:
        return []
    named = dict(template) if isinstance(template, Mapping) else {"default": template}
    paths = {name: directory / template_path(name) for name in named}
    if own_file and "default" in named:
        for name, path in paths.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(named[name], encoding="utf-8")
        return list(paths.values())
    path = directory / "tokenizer_config.json"
    found: Any = template
    if isinstance(template, Mapping):
        found = [{"name": name, "template": text} for name, text in named.items()]
    config = read_json(path) | {"chat_template": found}
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return []
