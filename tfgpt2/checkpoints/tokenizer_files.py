"""Tokenizer and generation files beside a model's weights, under the names of any format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfgpt2.checkpoints.registry import READERS
from tfgpt2.checkpoints.writers.base import Vocabulary
from tfgpt2.errors import unreadable
from tfgpt2.files import read_json_object, try_read_json_object
from tfgpt2.hub import Find

NAMES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)


def find_tokenizer_file(find: Find, name: str) -> Path | None:
    """Finds a file under transformers' name, or under that of another checkpoint format.

    Args:
        find: From a file's name to its local path, or None when there is no such file.
        name: The name that transformers gives it, such as `"vocab.json"`.

    Returns:
        The path, or None. KerasHub's `tokenizer.json` does not count: it is the configuration of a
        Keras layer, not a tokenizer of the `tokenizers` library.
    """
    names = (
        name,
        *(kind.tokenizer_files[name] for kind in READERS if name in kind.tokenizer_files),
    )
    path = next((path for path in map(find, names) if path is not None), None)
    if name == "tokenizer.json":
        values = try_read_json_object(path)  # damaged JSON is reported by the tokenizer
        if any(kind.owns_json(values) for kind in READERS):
            return None
    return path


def read_embedded(find: Find) -> dict[str, dict[str, Any]]:
    """Reads the tokenizer inside a file of weights, where no files of its own stand beside it.

    Args:
        find: From a file's name to its local path, or None when there is no such file.

    Returns:
        Contents of transformers' JSON files by their names; empty when there is no such tokenizer.

    Raises:
        ValueError: The file is damaged, or its tokenizer is of an unsupported kind.
    """
    if any(find_tokenizer_file(find, name) for name in ("tokenizer.json", "vocab.json")):
        return {}
    return next(filter(None, (kind.read_tokenizer(find) for kind in READERS)), {})


def read_vocabulary(find: Find, size: int) -> Vocabulary | None:
    """Reads the vocabulary of a BPE tokenizer.

    Args:
        find: From a file's name to its local path, or None when there is no such file.
        size: Number of token ids of the model.

    Returns:
        The vocabulary, or None when there is no tokenizer, or one of another kind.

    Raises:
        ValueError: A file is damaged, or has ids that the model does not have.
    """
    ids_path, merges_path = (
        find_tokenizer_file(find, name) for name in ("vocab.json", "merges.txt")
    )
    path = ids_path
    if ids_path is None or merges_path is None:
        path = find_tokenizer_file(find, "tokenizer.json")
    embedded = read_embedded(find).get("tokenizer.json") if path is None else None
    if path is None and embedded is None:
        return None
    values, added = read_json_object(path) if embedded is None else embedded, {}
    path = Path("tokenizer.json") if path is None else path  # in errors
    model = values.get("model")
    if path is not ids_path and isinstance(model, dict) and model.get("type", "BPE") != "BPE":
        return None
    try:
        if path is ids_path:
            lines = merges_path.read_text(encoding="utf-8").split("\n")
            merges = [line for line in lines if line and not line.startswith("#version")]
        else:
            added = {token["content"]: token["id"] for token in values.get("added_tokens") or ()}
            pairs = values["model"]["merges"]
            merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
            values = values["model"]["vocab"]
        tokens = values | added
        wrong = [token for token, i in tokens.items() if type(i) is not int or i < 0]
        token, last = ("", 0) if wrong else max(values.items(), key=lambda item: item[1])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(path, f"it is not a vocabulary ({error!r})") from error
    if wrong:
        reason = "a token's id is not an integer of at least 0"
        raise unreadable(path, reason, key=wrong[0], id=tokens[wrong[0]])
    if last >= size:
        raise unreadable(
            path,
            f"it has ids up to {last}, but the model has {size}: they do not belong together",
            key=token,
        )
    return Vocabulary(tokens, merges)
