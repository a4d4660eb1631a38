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
from tfgpt2.tokenizers import vocabulary_folder
from tfgpt2.tokenizers.added_tokens import by_text, parse_added_token, to_added_token, token_text
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.chat_template_files import read_chat_template, write_chat_template
from tfgpt2.tokenizers.json_files import read_json
from tfgpt2.tokenizers.json_values import check_value, get_value
from tfgpt2.tokenizers.spec_checks import DEFAULT_ROLES, ROLES, check_tokens, split_extra

HUB_OPTIONS = set(HubOptions.names())
_NO_LIMIT = int(1e30)  # What transformers writes for "no model_max_length".
_UNLIMITED = 1 << 31  # No row is so long; files say "no limit" with several larger numbers.

Families = Mapping[str, type[TokenizerSpec]]


def read(
    name: str | os.PathLike[str],
    families: Families,
    *,
    tokenizer_file: str | os.PathLike[str] | None = None,
    **options: Any,
) -> TokenizerSpec:
    """Reads a tokenizer from a directory, a bundled model or the hub.

    `tokenizer.json` decides the family and the ids when there is one (but not beside the model of a
    SentencePiece class, which is exact), else `tokenizer_class` the family (the first one, if no
    file names a class) and its vocabulary files the ids. `tokenizer_config.json`,
    `special_tokens_map.json` and `added_tokens.json` add to either.

    Args:
        name: Directory, bundled name or hub name.
        families: The families to choose from.
        tokenizer_file: Path of a `tokenizer.json` in place of the model's own.
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
    if vocabulary_folder.wins(repository, names, families):
        whole = None
    if tokenizer_file is not None:
        family, fields = _parse(read_json(Path(tokenizer_file)), families)
    elif embedded or whole is not None:
        data = embedded.get("tokenizer.json") or read_json(whole)
        family, fields = _parse(data, families)
    else:
        family, fields = vocabulary_folder.read(repository, names, families)
    described = [
        parse_added_token(token, int(key) if key.isdecimal() and len(key) < 20 else key)
        for key, token in get_value(config, "added_tokens_decoder", dict, {}).items()
    ] + [
        parse_added_token(token, token_id, special=False)
        for token, token_id in _read_optional(repository, "added_tokens.json").items()
    ]
    added = by_text([*fields.get("added", ()), *described]).values()
    fields |= {"added": added, "chat_template": read_chat_template(repository, config)}
    return _combine(family, fields, names, options)


def read_paths(
    paths: Mapping[str, str | os.PathLike[str]], families: Families, **options: Any
) -> TokenizerSpec:
    """Reads a tokenizer from files named one by one.

    Args:
        paths: From the name that transformers gives a file to its path: `"tokenizer.json"`, or the
            vocabulary files of a family.
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
        family = next(f for f in families.values() if tuple(paths) in f.known_files)
        fields = family.fields_from_files(lambda file: Path(paths[file]), {})
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
    # transformers 4 lists all special tokens in the map; 5 lists only those with a name.
    special = dict(getattr(tokenizer, "special_tokens_map", {}))
    names |= {name: token for name, token in special.items() if isinstance(token, str)}
    for key in ("additional_special_tokens", "extra_special_tokens"):
        names[key] = getattr(tokenizer, key, None)
    fields["chat_template"] = getattr(tokenizer, "chat_template", None)
    return _combine(family, fields, names, options)


def write(
    spec: TokenizerSpec, directory: str | os.PathLike[str], *, save_jinja_files: bool = True
) -> list[Path]:
    """Writes the files that `tokenizers`, transformers and `read` load.

    Args:
        spec: The tokenizer.
        directory: Folder to write to, made if it is not there.
        save_jinja_files: False writes chat templates into `tokenizer_config.json`.

    Returns:
        The files written.
    """
    folder = Path(directory)
    added = {str(token.id): dataclasses.asdict(token) for token in spec.added}
    for token in added.values():
        del token["id"]
    config = dict.fromkeys(DEFAULT_ROLES) | spec.roles
    config |= {key: getattr(spec, key) for key in spec.settings}
    config |= {
        "tokenizer_class": spec.tokenizer_class,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(spec.additional),
        **({"extra_special_tokens": spec.named} if spec.named else {}),
        "model_max_length": spec.model_max_length or _NO_LIMIT,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        **spec.class_config(),
    }
    texts = {
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(spec.roles, ensure_ascii=False, indent=2) + "\n",
    }
    if spec.has_tokenizer_json:
        texts["tokenizer.json"] = spec.backend().to_str() + "\n"
    paths = write_vocabulary(spec, folder) + _write_texts(folder, texts)
    return paths + write_chat_template(spec.chat_template, folder, own_file=save_jinja_files)


def write_vocabulary(spec: TokenizerSpec, folder: Path, prefix: str = "") -> list[Path]:
    """Writes the vocabulary files alone, and returns their paths."""
    files = spec.vocabulary_files()
    return _write_texts(folder, {prefix + name: text for name, text in files.items()})


def _parse(
    data: Mapping[str, Any], families: Families
) -> tuple[type[TokenizerSpec], dict[str, Any]]:
    """Returns the family and the fields of the contents of `tokenizer.json`."""
    model = get_value(data, "model", dict)
    added = [
        to_added_token(check_value(token, "added_tokens", dict))
        for token in get_value(data, "added_tokens", list, [])
    ]
    for family in families.values():
        if family.matches(data):
            return family, {"added": added, **family.fields_from_json(data)}
    raise value_error(
        f"`model.type` is of no supported family; the families are {', '.join(families)}.",
        fix="Load this tokenizer with the `tokenizers` library instead, and pass its ids to the"
        " model.",
        **{"model.type": model.get("type")},
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
    """Joins a family's fields with roles and settings; options win over names.

    Args:
        family: The family.
        fields: Its fields; `roles` are those that its model and its post-processor use.
        names: Roles and settings by their names in `tokenizer_config.json`.
        options: See `TokenizerSpec.replace`.

    Raises:
        ValueError: Names and fields contradict each other.
    """
    settings = {key: names[key] for key in family.settings if names.get(key) is not None}
    limit = settings.get("model_max_length")
    if isinstance(limit, (int, float)) and limit >= _UNLIMITED:
        settings["model_max_length"] = None
    if fields.get("add_bos_token") or fields.get(
        "template"
    ):  # The template of `tokenizer.json` wins, as in transformers.
        settings.pop("add_bos_token", None)
    additional, named = _special_tokens(names)
    roles = {role: named.pop(role) for role in ROLES if role in named}
    roles |= {role: names[role] for role in ROLES if role in names}
    for role, token in fields.pop("roles", {}).items():
        if roles.get(role) is not None and token_text(roles[role]) != token:
            raise value_error(
                f"`tokenizer.json` uses another `{role}` than `tokenizer_config.json` names.",
                fix="Change the one or the other.",
                **{"tokenizer.json": token, "tokenizer_config.json": roles[role]},
            )
        roles[role] = roles.get(role) or token
    spec = family.create(**fields | settings, roles=roles, additional=additional, named=named)
    return spec.replace(**options) if options else spec


def _special_tokens(names: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Returns the special tokens without a role: those without a name, and those with one.

    transformers 4 calls the former `additional_special_tokens` and the latter, by name,
    `extra_special_tokens`; 5 calls the former `extra_special_tokens` and writes the latter twice,
    as keys that end in `_token` and in `model_specific_special_tokens`.
    """
    extra, named = split_extra(names.get("extra_special_tokens"))
    additional = check_tokens("additional_special_tokens", names.get("additional_special_tokens"))
    named |= get_value(names, "model_specific_special_tokens", dict, {})
    for key, token in names.items():
        if key.endswith("_token") and key not in ROLES and isinstance(token, (str, Mapping)):
            named.setdefault(key, token)
    return additional + extra, named


def _read_optional(repository: Repository, filename: str) -> dict[str, Any]:
    path = repository.find(filename)
    return {} if path is None else read_json(path)


def _write_texts(folder: Path, texts: Mapping[str, str | bytes]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for filename, text in texts.items():
        (folder / filename).write_bytes(text.encode() if isinstance(text, str) else text)
    return [folder / filename for filename in texts]
