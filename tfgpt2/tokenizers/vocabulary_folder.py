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
# Names that say nothing of the family.
_ANY_CLASS = ("PreTrainedTokenizer", "TokenizersBackend")
# Classes that split texts with another program first, which no graph can run.
_OTHER_PROGRAMS = {"BertJapaneseTokenizer": "MeCab, Juman++ or Sudachi", "CpmTokenizer": "jieba"}

Families = Mapping[str, type[TokenizerSpec]]


def read(
    repository: Repository, config: Mapping[str, Any], families: Families
) -> tuple[type[TokenizerSpec], dict[str, Any]]:
    """Reads a tokenizer's vocabulary files.

    Args:
        repository: The model's files.
        config: The contents of `tokenizer_config.json` and `special_tokens_map.json`.
        families: The families to choose from.

    Returns:
        The family and its fields.

    Raises:
        FileNotFoundError: There are no vocabulary files.
        ValueError: They, or the class, are of no family, or a file is damaged.
    """
    name = _tokenizer_class(repository, config)
    kind = None if name is None else name.removesuffix("Fast")
    if kind in _OTHER_PROGRAMS:
        raise value_error(
            f"`{name}` splits texts into words with {_OTHER_PROGRAMS[kind]}, another program,"
            " which cannot run in a graph.",
            fix=f"Tokenize with transformers' `{name}`, pass its `input_ids` to"
            " `TFGPT2LMHeadModel.generate`, and decode the ids that it returns there.",
            tokenizer_class=name,
            name=repository.name,
        )
    if kind is None or kind in _ANY_CLASS:
        family = _family_of_files(repository, families)
    else:
        family = _classes(families).get(kind)
        if family is None:
            raise _no_family(name, repository, families)
        if not _has_files(repository, family):  # the class is wrong, or the files are missing
            family = _family_of_files(repository, families)

    def find(file: str) -> Path:
        path = find_tokenizer_file(repository.find, file)
        own = {name for names in family.known_files for name in names}
        if path is None and any(repository.find(other) for other in {*_OTHER_FILES} - own):
            raise _no_family(None, repository, families)
        return path or repository.require(file)

    fields = family.fields_from_files(find, dict(config) | {"tokenizer_class": name})
    if get_value(config, "add_eos_token", bool, False) and not fields.get("template"):
        raise value_error(
            "`add_eos_token` asks for a token at the end of each text, which is not supported.",
            fix="Set it to false in `tokenizer_config.json`, and append `eos_token` to the texts.",
            add_eos_token=True,
        )
    return family, fields


def wins(repository: Repository, config: Mapping[str, Any], families: Families) -> bool:
    """Returns whether vocabulary files win over a `tokenizer.json`, see `has_tokenizer_json`."""
    name = _tokenizer_class(repository, config)
    family = _classes(families).get(name.removesuffix("Fast")) if name else None
    return family is not None and not family.has_tokenizer_json and _has_files(repository, family)


def _classes(families: Families) -> dict[str, type[TokenizerSpec]]:
    """Returns the families by their names in transformers."""
    return {c: f for f in families.values() for c in (f.tokenizer_class, *f.same_classes)}


def _family_of_files(repository: Repository, families: Families) -> type[TokenizerSpec]:
    """Returns the first family whose vocabulary files are there; else the first of all."""
    known = (family for family in families.values() if _has_files(repository, family))
    return next(known, next(iter(families.values())))


def _has_files(repository: Repository, family: type[TokenizerSpec]) -> bool:
    find = repository.find
    return any(all(find_tokenizer_file(find, n) for n in names) for names in family.known_files)


def _tokenizer_class(repository: Repository, config: Mapping[str, Any]) -> str | None:
    """Returns the class that `tokenizer_config.json` names, or else `config.json`."""
    name = get_value(config, "tokenizer_class", str, "")
    if not name:
        values = try_read_json_object(repository.find("config.json"))
        name = get_value(values, "tokenizer_class", str, "")
    return name or None


def _no_family(name: str | None, repository: Repository, families: Families) -> ValueError:
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
