"""A tokenizer's files: `tokenizer.json`, `vocab.json`, `merges.txt` and what stands beside them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from tfgpt2.checkpoints.tokenizer_files import find_companion
from tfgpt2.errors import explain
from tfgpt2.hub import Repository
from tfgpt2.tokenizers import spec as specs
from tfgpt2.tokenizers.spec import ROLES, SETTINGS, Spec, added_token

WHERE = {field.name for field in dataclasses.fields(Repository)} - {"name"}
_NO_LIMIT = int(1e30)  # What transformers writes for "no model_max_length" ...
_UNLIMITED = int(1e20)  # ... and from where on it reads it so.


def read(name: str | os.PathLike[str], **options: Any) -> Spec:
    """Reads a tokenizer from a directory, a bundled model or the hub.

    `tokenizer.json` decides the ids when there is one, else `vocab.json` and `merges.txt`;
    `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` add to either.

    Args:
        name: Directory, bundled name or hub name.
        **options: Where to look (see `Repository`), and what replaces the files' own roles and
            settings (see `spec.replace`).

    Returns:
        The specification.

    Raises:
        FileNotFoundError: There is no such model, or it has no tokenizer.
        TypeError: There is no such option.
        ValueError: A file is damaged, or asks for something that GPT-2's tokenizer does not do.
    """
    where = {key: options.pop(key) for key in list(options) if key in WHERE}
    repository = Repository(name, **where)
    config = _json(repository, "tokenizer_config.json") or {}
    names = (_json(repository, "special_tokens_map.json") or {}) | config
    # Under transformers' names, or as OpenAI and KerasHub call them.
    whole, vocab, merges = (
        find_companion(repository.find, file)
        for file in ("tokenizer.json", "vocab.json", "merges.txt")
    )
    if whole is not None:
        found = _from_backend(_load(whole))
    else:
        vocab = _load(vocab or repository.require("vocab.json"))
        merges = _merges(merges or repository.require("merges.txt"))
        found = {"vocab": vocab, "merges": merges, "added": []}
    known = {token.content for token in found["added"]}
    extra = [
        added_token(token, token_id)
        for token_id, token in (config.get("added_tokens_decoder") or {}).items()
    ] + [
        added_token(token, token_id, special=False)
        for token, token_id in (_json(repository, "added_tokens.json") or {}).items()
    ]
    for token in extra:
        if token.content not in known:
            known.add(token.content)
            found["added"].append(token)
    return _combine(found, names, options)


def read_paths(
    vocab_file: str | os.PathLike[str] | None,
    merges_file: str | os.PathLike[str] | None,
    tokenizer_file: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Spec:
    """Reads a tokenizer from files named one by one.

    Args:
        vocab_file: Path of `vocab.json`.
        merges_file: Path of `merges.txt`.
        tokenizer_file: Path of `tokenizer.json`, in place of the two.
        **options: Roles and settings (see `spec.replace`).

    Returns:
        The specification.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: No file was named, or there is no such option.
        ValueError: A file is damaged, or asks for something that GPT-2's tokenizer does not do.
    """
    if tokenizer_file is not None:
        return _combine(_from_backend(_load(Path(tokenizer_file))), {}, options)
    if vocab_file is None or merges_file is None:
        raise TypeError(
            explain(
                "A tokenizer needs `vocab_file` and `merges_file`, or `tokenizer_file`.",
                fix="Use `from_pretrained(directory)` to find the files.",
                vocab_file=vocab_file,
                merges_file=merges_file,
            )
        )
    found = {
        "vocab": _load(Path(vocab_file)),
        "merges": _merges(Path(merges_file)),
        "added": [],
    }
    return _combine(found, {}, options)


def from_tokenizer(tokenizer: Any, **options: Any) -> Spec:
    """Reads the tokenizer that another object holds.

    Args:
        tokenizer: A `tokenizers.Tokenizer`, a slow or fast tokenizer of transformers, or ours.
        **options: What replaces the tokenizer's roles and settings (see `spec.replace`).

    Returns:
        The specification.

    Raises:
        TypeError: The object is none of these, or there is no such option.
        ValueError: The tokenizer does something that GPT-2's does not do.
    """
    if isinstance(getattr(tokenizer, "spec", None), Spec):
        return specs.replace(tokenizer.spec, **options)
    if isinstance(tokenizer, tokenizers.Tokenizer):
        return _combine(_from_backend(json.loads(tokenizer.to_str())), {}, options)
    names = {role: getattr(tokenizer, role, None) for role in ROLES}
    names |= {key: getattr(tokenizer, key) for key in SETTINGS if hasattr(tokenizer, key)}
    names["additional_special_tokens"] = getattr(tokenizer, "additional_special_tokens", ())
    if hasattr(tokenizer, "backend_tokenizer"):
        found = _from_backend(json.loads(tokenizer.backend_tokenizer.to_str()))
    elif hasattr(tokenizer, "bpe_ranks") and hasattr(tokenizer, "encoder"):
        decoder = tokenizer.added_tokens_decoder
        found = {
            "vocab": dict(tokenizer.encoder),
            "merges": sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get),
            "added": [added_token(token, token_id) for token_id, token in decoder.items()],
        }
    else:
        raise TypeError(
            explain(
                "Expected a `tokenizers.Tokenizer` or a GPT-2 tokenizer of transformers.",
                fix="Use `from_pretrained(directory)` for files.",
                tokenizer=tokenizer,
            )
        )
    return _combine(found, names, options)


def write(spec: Spec, directory: str | os.PathLike[str]) -> list[Path]:
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
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token")) | spec.roles
    config = roles | {key: getattr(spec, key) for key in SETTINGS}
    config |= {
        "tokenizer_class": "GPT2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": list(spec.additional),
        "model_max_length": spec.model_max_length or _NO_LIMIT,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
    }
    texts = {
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(spec.roles, ensure_ascii=False, indent=2) + "\n",
        "tokenizer.json": specs.backend(spec).to_str() + "\n",
    }
    return write_vocabulary(spec, folder) + _write_texts(folder, texts)


def write_vocabulary(spec: Spec, folder: Path, prefix: str = "") -> list[Path]:
    """Writes `vocab.json` and `merges.txt` alone, and returns their paths."""
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in spec.merges)]
    texts = {
        f"{prefix}vocab.json": json.dumps(spec.vocab, ensure_ascii=False) + "\n",
        f"{prefix}merges.txt": "\n".join(lines) + "\n",
    }
    return _write_texts(folder, texts)


def _write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for filename, text in texts.items():
        (folder / filename).write_bytes(text.encode("utf-8"))
    return [folder / filename for filename in texts]


def _combine(found: dict[str, Any], names: Mapping[str, Any], options: dict[str, Any]) -> Spec:
    """Joins what decides the ids with roles and settings; options win over names."""
    settings = {key: found[key] for key in found.keys() - {"vocab", "merges", "added", "roles"}}
    settings |= {key: names[key] for key in SETTINGS if names.get(key) is not None}
    limit = settings.get("model_max_length")
    if isinstance(limit, (int, float)) and limit >= _UNLIMITED:
        settings["model_max_length"] = None
    roles = found.get("roles", {}) | {role: names[role] for role in ROLES if role in names}
    found_spec = specs.make(
        found["vocab"],
        found["merges"],
        added=found["added"],
        roles=roles,
        additional=names.get("additional_special_tokens") or (),
        **settings,
    )
    return specs.replace(found_spec, **options) if options else found_spec


def _from_backend(data: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the contents of `tokenizer.json`."""
    model = data.get("model") or {}
    pre, decoder = data.get("pre_tokenizer") or {}, data.get("decoder") or {}
    oddities = {
        "model.type": model.get("type", "BPE") != "BPE",
        "model.dropout": bool(model.get("dropout")),
        "model.continuing_subword_prefix": bool(model.get("continuing_subword_prefix")),
        "model.end_of_word_suffix": bool(model.get("end_of_word_suffix")),
        "model.byte_fallback": bool(model.get("byte_fallback")),
        "model.ignore_merges": bool(model.get("ignore_merges")),
        "normalizer": data.get("normalizer") is not None,
        "pre_tokenizer": pre.get("type") != "ByteLevel" or not pre.get("use_regex", True),
        "decoder": decoder.get("type", "ByteLevel") != "ByteLevel",
    }
    for part, odd in oddities.items():
        if odd:
            *path, last = part.split(".")
            raise ValueError(
                explain(
                    f"`{part}` asks for something that GPT-2's byte-level BPE does not do.",
                    fix="Load this tokenizer with the `tokenizers` library instead.",
                    **{part: ((data[path[0]] if path else data) or {}).get(last)},
                )
            )
    roles = _roles_of_template(data.get("post_processor"))
    if model.get("unk_token") is not None:
        roles["unk_token"] = model["unk_token"]
    return {
        "vocab": model.get("vocab"),
        "merges": model.get("merges") or [],
        "added": [added_token(token, token["id"]) for token in data.get("added_tokens") or []],
        "add_prefix_space": bool(pre.get("add_prefix_space")),
        "add_bos_token": "bos_token" in roles,
        "unk_in_model": model.get("unk_token") is not None,
        "fuse_unk": bool(model.get("fuse_unk")),
        "roles": roles,
    }


def _roles_of_template(processor: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns `{"bos_token": ...}` when a post-processor puts one token before the text."""
    processor = processor or {}
    kind = processor.get("type", "ByteLevel")
    if kind == "Sequence":
        parts = [_roles_of_template(part) for part in processor["processors"]]
        return {role: token for part in parts for role, token in part.items()}
    if kind == "ByteLevel":
        return {}
    template = processor.get("single") if kind == "TemplateProcessing" else None
    if template and [*template[-1]] == ["Sequence"] and len(template) <= 2:
        specials = [part["SpecialToken"]["id"] for part in template[:-1] if "SpecialToken" in part]
        return {"bos_token": specials[0]} if specials else {}
    raise ValueError(
        explain(
            "`post_processor` may put `bos_token` before the text and do nothing else.",
            fix="Remove it from `tokenizer.json`, or load it with the `tokenizers` library.",
            post_processor=processor,
        )
    )


def _merges(path: Path) -> list[str]:
    lines = _text(path).split("\n")
    return [line for line in lines if line and not line.startswith("#version")]


def _json(repository: Repository, filename: str) -> Any:
    path = repository.find(filename)
    return None if path is None else _load(path)


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(_damaged(path, str(error))) from error
    if not isinstance(data, dict):
        raise ValueError(_damaged(path, f"expected an object, found {type(data).__name__}"))
    return data


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(_damaged(path, str(error))) from error


def _damaged(path: Path, reason: str) -> str:
    return explain(
        f"{path.name!r} is damaged: {reason}.",
        fix="Download or save the tokenizer again.",
        path=str(path),
    )
