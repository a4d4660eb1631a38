"""The `tokenizer.json` of a byte-level BPE tokenizer that a file of weights brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def make_tokenizer_json(
    vocabulary: Mapping[str, int],
    merges: Sequence[str] = (),
    added_tokens: Sequence[Mapping[str, Any]] = (),
    add_prefix_space: bool = False,
) -> dict[str, Any]:
    """Returns the content of a `tokenizer.json`, complete for the `tokenizers` library.

    Args:
        vocabulary: Token to id, in the characters of `vocab.json`.
        merges: Pairs as `"left right"`, the most urgent first.
        added_tokens: `id`, `content` and `special` of each added token.
        add_prefix_space: Whether text is encoded as if a space stood before it.

    Source: https://github.com/huggingface/tokenizers, `src/tokenizer/serialization.rs`.

    Example:
        >>> make_tokenizer_json({"a": 0})["model"]["vocab"]
        {'a': 0}
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": add_prefix_space}
    byte_level |= {"trim_offsets": True, "use_regex": True}
    result = make_character_json(vocabulary) | {"pre_tokenizer": byte_level, "decoder": byte_level}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    result["added_tokens"] = [{**token, **flags} for token in added_tokens]
    result["model"]["merges"] = list(merges)
    return result


def make_character_json(vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """Returns the content of the `tokenizer.json` of a table of characters: BPE without merges.

    Characters that the table lacks are dropped.

    Args:
        vocabulary: Character to id.
    """
    options = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    model = {"type": "BPE", **dict.fromkeys(options), "fuse_unk": False, "byte_fallback": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": model | {"vocab": dict(vocabulary), "merges": []},
    }
