"""A tokenizer's family where there is no `tokenizer.json`: from its class and its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfgpt2.checkpoints.tokenizer_files import find_tokenizer_file
from tfgpt2.errors import value_error
from tfgpt2.files import try_read_json_object
from tfgpt2.hub import Repository
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.json_values import get_value

# Vocabulary files of other kinds of tokenizers, and the class that most often reads them.
_OTHER_FILES = {
    "vocab.txt": "BertTokenizer",
    "spiece.model": "T5Tokenizer",
    "tokenizer.model": "LlamaTokenizer",
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
}


def read(
    repository: Repository, config: Mapping[str, Any], families: Mapping[str, type[TokenizerSpec]]
) -> tuple[type[TokenizerSpec], dict[str, Any]]:
    """Reads a tokenizer's vocabulary files.

    Args:
        repository: The model's files.
        config: The contents of `tokenizer_config.json`.
        families: The families to choose from.

    Returns:
        The family and its fields.

    Raises:
        FileNotFoundError: There are no vocabulary files.
        ValueError: They, or the class, are of no family, or a file is damaged.
    """
    name = _tokenizer_class(repository, config)
    family, *_ = families.values()
    if name is not None:
        classes = {c: f for f in families.values() for c in (f.tokenizer_class, *f.same_classes)}
        family = classes.get(name.removesuffix("Fast"))
        if family is None:
            raise _no_family(name, repository, families)

    def find(file: str) -> Path:
        path = find_tokenizer_file(repository.find, file)
        if path is None and any(repository.find(other) for other in _OTHER_FILES):
            raise _no_family(None, repository, families)
        return path or repository.require(file)

    fields = family.fields_from_files(find)
    if get_value(config, "add_eos_token", bool, False):
        raise value_error(
            "`add_eos_token` asks for a token at the end of each text, which is not supported.",
            fix="Set it to false in `tokenizer_config.json`, and append `eos_token` to the texts.",
            add_eos_token=True,
        )
    return family, fields


def _tokenizer_class(repository: Repository, config: Mapping[str, Any]) -> str | None:
    """Returns the class that `tokenizer_config.json` names, or else `config.json`."""
    name = get_value(config, "tokenizer_class", str, "")
    if not name:
        values = try_read_json_object(repository.find("config.json"))
        name = get_value(values, "tokenizer_class", str, "")
    return name or None


def _no_family(
    name: str | None, repository: Repository, families: Mapping[str, type[TokenizerSpec]]
) -> ValueError:
    """Returns the error for a tokenizer of a class that is no family."""
    files = [file for file in _OTHER_FILES if repository.find(file)]
    name = _OTHER_FILES[files[0]] if name is None else name
    holds = f", whose vocabulary is in {files[0]!r}," if files else ""
    fix = f"Tokenize with transformers' `{name}`, and pass its `input_ids` to the model."
    if not files:
        fix += " If it is byte-level BPE like GPT-2's, change `tokenizer_class` to"
        fix += " 'GPT2Tokenizer' in `tokenizer_config.json`."
    return value_error(
        f"This is a `{name}`{holds} and that is of no supported family; the families are"
        f" {', '.join(families)}.",
        fix=fix,
        tokenizer_class=name,
        name=repository.name,
    )
