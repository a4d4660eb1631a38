"""A tokenizer's files: `tokenizer.json`, vocabulary files, and what stands beside them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from tfgpt2.checkpoints.single_file import open_repository
from tfgpt2.checkpoints.tokenizer_files import find_tokenizer_file, read_embedded
from tfgpt2.errors import type_error, value_error
from tfgpt2.hub import HubOptions, Repository
from tfgpt2.tokenizers.added_tokens import parse_added_token
from tfgpt2.tokenizers.base import DEFAULT_ROLES, ROLES, TokenizerSpec

WHERE = set(HubOptions.names())
_NO_LIMIT = int(1e30)  # What transformers writes for "no model_max_length" ...
_UNLIMITED = int(1e20)  # ... and from where on it reads it so.

Families = Mapping[str, type[TokenizerSpec]]


def read(name: str | os.PathLike[str], families: Families, **options: Any) -> TokenizerSpec:
    """Reads a tokenizer from a directory, a bundled model or the hub.

    `tokenizer.json` decides the family and the ids when there is one, else `tokenizer_class` the
    family (the first one, if it names none) and its vocabulary files the ids.
    `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` add to either.

    Args:
        name: Directory, bundled name or hub name.
        families: The families to choose from.
        **options: Where to look (see `Repository`), and what replaces the files' own roles and
            settings (see `TokenizerSpec.replace`).

    Returns:
        The specification.

    Raises:
        FileNotFoundError: There is no such model, or it has no tokenizer.
        TypeError: There is no such option.
        ValueError: A file is damaged, or asks for something that its family does not do.
    """
    hub_options, options = HubOptions.split(options)
    repository = open_repository(name, hub_options)
    embedded = read_embedded(repository.find)
    config = embedded.get("tokenizer_config.json") or _read_optional(
        repository, "tokenizer_config.json"
    )
    names = _read_optional(repository, "special_tokens_map.json") | config
    # Under transformers' names, or as OpenAI and KerasHub call them.
    whole = find_tokenizer_file(repository.find, "tokenizer.json")
    if embedded or whole is not None:
        data = embedded.get("tokenizer.json") or read_json(whole)
        family, fields = _parse(data, families)
    else:
        kind = str(config.get("tokenizer_class")).removesuffix("Fast")
        first, *_ = families.values()
        family = next((f for f in families.values() if f.tokenizer_class == kind), first)
        fields = family.fields_from_files(
            lambda file: find_tokenizer_file(repository.find, file) or repository.require(file)
        )
    added = fields.setdefault("added", [])
    known = {token.content for token in added}
    described = [
        parse_added_token(token, token_id)
        for token_id, token in (config.get("added_tokens_decoder") or {}).items()
    ] + [
        parse_added_token(token, token_id, special=False)
        for token, token_id in _read_optional(repository, "added_tokens.json").items()
    ]
    for token in described:
        if token.content not in known:
            known.add(token.content)
            added.append(token)
    return _combine(family, fields, names, options)


def read_paths(
    paths: Mapping[str, str | os.PathLike[str]], families: Families, **options: Any
) -> TokenizerSpec:
    """Reads a tokenizer from files named one by one.

    Args:
        paths: From the name that transformers gives a file to its path: `"tokenizer.json"`, or the
            vocabulary files of the first family.
        families: The families to choose from.
        **options: Roles and settings (see `TokenizerSpec.replace`).

    Returns:
        The specification.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: There is no such option.
        ValueError: A file is damaged, or asks for something that its family does not do.
    """
    if "tokenizer.json" in paths:
        family, fields = _parse(read_json(Path(paths["tokenizer.json"])), families)
    else:
        family, *_ = families.values()
        fields = family.fields_from_files(lambda file: Path(paths[file]))
    return _combine(family, fields, {}, options)


def from_tokenizer(tokenizer: Any, families: Families, **options: Any) -> TokenizerSpec:
    """Reads the tokenizer that another object holds.

    Args:
        tokenizer: A `tokenizers.Tokenizer`, a slow or fast tokenizer of transformers, or ours.
        families: The families to choose from.
        **options: What replaces the tokenizer's roles and settings (see `TokenizerSpec.replace`).

    Returns:
        The specification.

    Raises:
        TypeError: The object is none of these, or there is no such option.
        ValueError: The tokenizer does something that its family does not do.
    """
    if isinstance(getattr(tokenizer, "spec", None), TokenizerSpec):
        return tokenizer.spec.replace(**options)
    if isinstance(tokenizer, tokenizers.Tokenizer):
        return _combine(*_parse(json.loads(tokenizer.to_str()), families), {}, options)
    if hasattr(tokenizer, "backend_tokenizer"):
        data = json.loads(tokenizer.backend_tokenizer.to_str())
        family, fields = _parse(data, families)
    else:
        family, fields = _parse_python(tokenizer, families)
    names = {role: getattr(tokenizer, role, None) for role in ROLES}
    names |= {key: getattr(tokenizer, key) for key in family.settings if hasattr(tokenizer, key)}
    names["additional_special_tokens"] = getattr(tokenizer, "additional_special_tokens", ())
    return _combine(family, fields, names, options)


def write(spec: TokenizerSpec, directory: str | os.PathLike[str]) -> list[Path]:
    """Writes the files that `tokenizers`, transformers and `read` load.

    Args:
        spec: The tokenizer.
        directory: Folder to write to, made if it is not there.

    Returns:
        The files written.
    """
    folder = Path(directory)
    added = {
        str(token.id): dataclasses.asdict(token) | {"single_word": False} for token in spec.added
    }
    for token in added.values():
        del token["id"]
    config = dict.fromkeys(DEFAULT_ROLES) | spec.roles
    config |= {key: getattr(spec, key) for key in spec.settings}
    config |= {
        "tokenizer_class": spec.tokenizer_class,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(spec.additional),
        "model_max_length": spec.model_max_length or _NO_LIMIT,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
    }
    texts = {
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(spec.roles, ensure_ascii=False, indent=2) + "\n",
        "tokenizer.json": spec.backend().to_str() + "\n",
    }
    return write_vocabulary(spec, folder) + _write_texts(folder, texts)


def write_vocabulary(spec: TokenizerSpec, folder: Path, prefix: str = "") -> list[Path]:
    """Writes the vocabulary files alone, and returns their paths."""
    files = spec.vocabulary_files()
    return _write_texts(folder, {prefix + name: text for name, text in files.items()})


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that holds a JSON object.

    Raises:
        ValueError: It does not.
    """
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(data, dict):
        raise _damaged(path, f"expected an object, found {type(data).__name__}")
    return data


def read_text(path: Path) -> str:
    """Reads a file of UTF-8 text.

    Raises:
        ValueError: It is not valid UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, str(error)) from error


def _parse(
    data: Mapping[str, Any], families: Families
) -> tuple[type[TokenizerSpec], dict[str, Any]]:
    """Returns the family and the fields of the contents of `tokenizer.json`."""
    for family in families.values():
        if family.matches(data):
            added = [parse_added_token(t, t["id"]) for t in data.get("added_tokens") or []]
            return family, {"added": added, **family.fields_from_json(data)}
    raise value_error(
        f"`model.type` is of no supported family; the families are {', '.join(families)}.",
        fix="Load this tokenizer with the `tokenizers` library instead.",
        **{"model.type": (data.get("model") or {}).get("type")},
    )


def _parse_python(tokenizer: Any, families: Families) -> tuple[type[TokenizerSpec], dict[str, Any]]:
    """Returns the family and the fields of a tokenizer of transformers written in Python."""
    for family in families.values():
        fields = family.fields_from_python(tokenizer)
        if fields is not None:
            decoder = tokenizer.added_tokens_decoder
            added = [parse_added_token(token, token_id) for token_id, token in decoder.items()]
            return family, {"added": added, **fields}
    raise type_error(
        "Expected a `tokenizers.Tokenizer` or a GPT-2 tokenizer of transformers.",
        fix="Use `from_pretrained(directory)` for files.",
        tokenizer=tokenizer,
    )


def _combine(
    family: type[TokenizerSpec],
    fields: dict[str, Any],
    names: Mapping[str, Any],
    options: dict[str, Any],
) -> TokenizerSpec:
    """Joins a family's fields with roles and settings; options win over names."""
    settings = {key: names[key] for key in family.settings if names.get(key) is not None}
    limit = settings.get("model_max_length")
    if isinstance(limit, (int, float)) and limit >= _UNLIMITED:
        settings["model_max_length"] = None
    roles = fields.pop("roles", {}) | {role: names[role] for role in ROLES if role in names}
    additional = names.get("additional_special_tokens") or ()
    spec = family.create(**fields | settings, roles=roles, additional=additional)
    return spec.replace(**options) if options else spec


def _read_optional(repository: Repository, filename: str) -> dict[str, Any]:
    path = repository.find(filename)
    return {} if path is None else read_json(path)


def _write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for filename, text in texts.items():
        (folder / filename).write_bytes(text.encode("utf-8"))
    return [folder / filename for filename in texts]


def _damaged(path: Path, reason: str) -> ValueError:
    return value_error(
        f"{path.name!r} is damaged: {reason}.",
        fix="Download or save the tokenizer again.",
        path=str(path),
    )
