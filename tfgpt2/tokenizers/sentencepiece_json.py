"""A `tokenizer.json` of the kind Unigram, read as a SentencePiece model with its conventions.

Texts are normalized as SentencePiece does it with the charsmap of the file, and as its training did
it, not as the `tokenizers` library does: that looks up whole clusters of a letter and its marks
first and loses marks, and leaves white space at the ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.json_values import get_value, list_stages
from tfgpt2.tokenizers.sentencepiece_model import SPACE, model_from_json, parse_model, read_entry
from tfgpt2.tokenizers.template import read_template

_QUOTES = ("``", "''")


def class_of(data: Mapping[str, Any]) -> str:
    """Returns the class of transformers whose conventions a `tokenizer.json` follows.

    Args:
        data: The contents of a `tokenizer.json` of Unigram.
    """
    template = read_template(data, _ids(data))
    if set(_QUOTES) & set(_replaced(data)) or (template.prefix and template.suffix):
        return "AlbertTokenizer"
    return "T5Tokenizer" if template.suffix else "BertGenerationTokenizer"


def read(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a tokenizer from the contents of a `tokenizer.json` of Unigram.

    Raises:
        ValueError: A step does something that SentencePiece families do not do.
    """
    steps = list_stages(data, "normalizer", "normalizers")
    for step in steps:
        if not _is_known(step):
            raise _unsupported("normalizer", step)
    kinds = {step["type"] for step in steps}
    model = model_from_json(data)
    model.normalizer_spec.add_dummy_prefix = _adds_prefix(data)
    data_of_model = model.SerializeToString(deterministic=True)
    parse_model(data_of_model, "tokenizer.json")
    return {
        "model": data_of_model,
        "do_lower_case": "Lowercase" in kinds,
        "keep_accents": "StripAccents" not in kinds,
        "remove_space": True,
        "roles": _roles(data) | {"unk_token": model.trainer_spec.unk_piece},
    }


def _roles(data: Mapping[str, Any]) -> dict[str, str]:
    """Returns the roles that the tokens around texts have."""
    name, template = class_of(data), read_template(data, _ids(data))
    sides = {"T5Tokenizer": (0, 1), "AlbertTokenizer": (1, 1)}.get(name, (0, 0))
    if (len(template.prefix), len(template.suffix)) not in (sides, (0, 0)) or (
        name == "AlbertTokenizer" and not template
    ):
        raise _unsupported("post_processor", data.get("post_processor"))
    roles = {"eos_token": template.suffix} if name == "T5Tokenizer" else {
        "cls_token": template.prefix, "sep_token": template.suffix
    }  # fmt: skip
    return {role: tokens[0] for role, tokens in roles.items() if tokens}


def _adds_prefix(data: Mapping[str, Any]) -> bool:
    """Returns whether each part of a text is encoded as if a space stood before it."""
    steps = list_stages(data, "pre_tokenizer", "pretokenizers")
    decoders = [step["type"] for step in list_stages(data, "decoder", "decoders")]
    if not set(decoders) <= {"Metaspace", "ByteFallback", "Fuse", "Replace", "Strip"}:
        raise _unsupported("decoder", data["decoder"])
    match steps:
        case [{"type": "Metaspace"} as step] | [
            {"type": "WhitespaceSplit"},
            {"type": "Metaspace"} as step,
        ] if step.get("replacement", SPACE) == SPACE:
            always = "always" if get_value(step, "add_prefix_space", bool, True) else "never"
            match get_value(step, "prepend_scheme", str, always):
                case "always":
                    return True
                case "never":
                    return False
    raise _unsupported("pre_tokenizer", data.get("pre_tokenizer"))


def _is_known(step: Mapping[str, Any]) -> bool:
    """Returns whether SentencePiece, or a rule before it, does what a normalizer does."""
    match step:
        case {"type": "Precompiled" | "NFKD" | "StripAccents" | "Lowercase" | "Strip"}:
            return True
        case {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " " | "\u2581"}:
            return True
        case {"type": "Replace", "pattern": {"String": "``" | "''"}, "content": '"'}:
            return True
    return False


def _replaced(data: Mapping[str, Any]) -> list[str]:
    """Returns the texts that the normalizer replaces."""
    steps = list_stages(data, "normalizer", "normalizers")
    patterns = [step["pattern"] for step in steps if isinstance(step.get("pattern"), dict)]
    return [one["String"] for one in patterns if isinstance(one.get("String"), str)]


def _ids(data: Mapping[str, Any]) -> dict[str, int]:
    """Returns token to id, added tokens included."""
    vocab = get_value(get_value(data, "model", dict), "model.vocab", list)
    ids = {read_entry(entry)[0]: index for index, entry in enumerate(vocab)}
    return ids | {token["content"]: token["id"] for token in data.get("added_tokens") or ()}


def _unsupported(part: str, value: Any) -> ValueError:
    return value_error(
        f"`{part}` asks for something that the SentencePiece families do not do.",
        fix="Load this tokenizer with the `tokenizers` library instead, and pass its ids to the"
        " model.",
        **{part: value},
    )
