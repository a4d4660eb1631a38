"""What stands beside a model's weights: tokenizer and generation settings, under any name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tfgpt2.checkpoints.readers import keras_hub, tf1
from tfgpt2.checkpoints.shards import broken

NAMES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)
# What a file is called in other formats, by the name that transformers gives it.
OTHER_NAMES = {
    name: (tf1.TOKENIZER_FILES[name], keras_hub.TOKENIZER_FILES[name])
    for name in ("vocab.json", "merges.txt")
}


def find_companion(find: Callable[[str], Path | None], name: str) -> Path | None:
    """Finds a file under the name that transformers gives it, or that OpenAI or KerasHub do.

    Args:
        find: From a file's name to its local path, or None when there is no such file.
        name: The name that transformers gives it, such as `"vocab.json"`.

    Returns:
        The path, or None. KerasHub's `tokenizer.json` does not count: it is a Keras layer's
        configuration and not a tokenizer of the `tokenizers` library.
    """
    names = (name, *OTHER_NAMES.get(name, ()))
    path = next((path for path in map(find, names) if path is not None), None)
    if path is not None and name == "tokenizer.json":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return path  # whoever reads it will say what is wrong with it
        if keras_hub.is_preset_config(values):
            return None
    return path


def read_vocabulary(
    find: Callable[[str], Path | None], size: int
) -> tuple[dict[str, int] | None, list[str]]:
    """Reads the source's vocabulary, added tokens included, and its merges.

    Args:
        find: From a file's name to its local path, or None when there is no such file.
        size: Number of ids that the model has.

    Returns:
        Ids by token and merges as "left right"; None and nothing when there is no tokenizer.

    Raises:
        ValueError: A file is damaged, or has ids that the model does not.
    """
    tables, lines = (find_companion(find, name) for name in ("vocab.json", "merges.txt"))
    whole = find_companion(find, "tokenizer.json")
    path = whole if tables is None or lines is None else tables
    if path is None:
        return None, []
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if path is tables:
            merges = lines.read_text(encoding="utf-8").split("\n")
            merges = [line for line in merges if line and not line.startswith("#version")]
        else:
            merges = values["model"]["merges"]
            merges = [line if isinstance(line, str) else " ".join(line) for line in merges]
            added = {token["content"]: token["id"] for token in values.get("added_tokens") or ()}
            values = values["model"]["vocab"]
        token, last = max(values.items(), key=lambda item: item[1])
        beyond = last >= size
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise broken(path, f"it is no vocabulary ({error!r})") from error
    if beyond:
        raise broken(
            path,
            f"it has ids up to {last}, and the model has {size}: they do not belong together",
            key=token,
        )
    return (values if path is tables else values | added), merges
