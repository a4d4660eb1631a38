"""Values of JSON files, checked to be of the kind that is expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from tfgpt2.errors import value_error

T = TypeVar("T")

_KINDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "true or false",
    int: "an integer",
}


def get_value(values: Mapping[str, Any], path: str, kind: type[T], default: T | None = None) -> T:
    """Returns the value of a key, or the default where it is null or missing.

    Args:
        values: A JSON object.
        path: The key, after the keys that lead to the object: `"model.vocab"`.
        kind: Type of the value.
        default: The default; None makes the value a required one.

    Raises:
        ValueError: The value is of another type, or required and missing.

    Example:
        >>> get_value({"vocab": {"a": 0}}, "model.vocab", dict)
        {'a': 0}
        >>> get_value({"fuse_unk": None}, "model.fuse_unk", bool, False)
        False
    """
    value = values.get(path.rpartition(".")[2])
    if value is None and default is not None:
        return default
    return check_value(value, path, kind)


def check_value(value: Any, path: str, kind: type[T]) -> T:
    """Returns a value; raises `ValueError` when it is not of a type.

    Args:
        value: A JSON value.
        path: The keys that lead to it.
        kind: Its type.
    """
    if type(value) is kind:
        return value
    raise value_error(
        f"`{path}` must be {_KINDS[kind]}.",
        fix="Download or save the tokenizer again.",
        **{path: value},
    )


def list_stages(data: Mapping[str, Any], name: str, parts: str) -> list[dict[str, Any]]:
    """Returns the steps of a part of `tokenizer.json`, whether it is a `Sequence` or a single one.

    Args:
        data: The contents of `tokenizer.json`.
        name: The part: `"normalizer"`, `"pre_tokenizer"`, `"post_processor"` or `"decoder"`.
        parts: Key under which its `Sequence` holds its steps.

    Raises:
        ValueError: A step is not an object with a type.

    Example:
        >>> sequence = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
        >>> list_stages({"normalizer": sequence}, "normalizer", "normalizers")
        [{'type': 'NFC'}]
        >>> list_stages({"normalizer": None}, "normalizer", "normalizers")
        []
    """
    if data.get(name) is None:
        return []
    stage = get_value(data, name, dict)
    if get_value(stage, f"{name}.type", str) != "Sequence":
        return [stage]
    steps = get_value(stage, f"{name}.{parts}", list)
    return [inner for step in steps for inner in list_stages({name: step}, name, parts)]
