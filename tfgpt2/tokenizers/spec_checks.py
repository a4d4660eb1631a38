"""Checks of the fields of a `TokenizerSpec`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tfgpt2.errors import type_error, value_error
from tfgpt2.tokenizers.added_tokens import AddedToken, is_unicode, token_text, two_ids

DEFAULT_ROLES = ("bos_token", "eos_token", "unk_token")  # `<|endoftext|>`'s, if not given
# In the order in which transformers lists them.
ROLES = (*DEFAULT_ROLES, "sep_token", "pad_token", "cls_token", "mask_token")
SIDES = ("left", "right")
MAX_HOLES = 1 << 18  # ids without a token; tables have a row for each id


def check_vocab(vocab: Mapping[str, int]) -> dict[str, int]:
    """Returns the vocabulary.

    Raises:
        TypeError: It is no mapping.
        ValueError: A token is not text, or an id is not an integer of at least 0.
    """
    if not isinstance(vocab, Mapping):
        raise type_error(
            "The vocabulary maps each token to its id.",
            fix="Pass the contents of `vocab.json`, or use `from_pretrained(directory)`.",
            vocab=vocab,
        )
    for token, token_id in vocab.items():
        is_text = isinstance(token, str) and is_unicode(token)
        if not is_text or type(token_id) is not int or token_id < 0:
            raise value_error(
                "The vocabulary maps text to ids, integers of at least 0.",
                fix="Check `vocab.json`.",
                token=token,
                id=token_id,
            )
    return dict(vocab)


def check_ids(vocab: Mapping[str, int], added: Iterable[AddedToken]) -> None:
    """Checks that each token has one id, each id one token, and few ids have none.

    Raises:
        ValueError: It is not so.
    """
    owners: dict[int, str] = {token_id: token for token, token_id in vocab.items()}
    if len(owners) < len(vocab):
        token = next(token for token, token_id in vocab.items() if owners[token_id] != token)
        raise _same_id(vocab[token], token, owners[vocab[token]])
    for token in added:
        if vocab.get(token.content, token.id) != token.id:
            raise two_ids(token.content, vocab[token.content], token.id)
        if owners.setdefault(token.id, token.content) != token.content:
            raise _same_id(token.id, owners[token.id], token.content)
    largest = max(owners, default=-1)
    if largest >= len(owners) + MAX_HOLES:
        raise value_error(
            f"The largest id leaves more than {MAX_HOLES:,} ids without a token.",
            fix="Check the vocabulary and the added tokens: the file may be damaged.",
            token=owners[largest],
            id=largest,
            tokens=len(owners),
        )


def _same_id(token_id: int, *tokens: str) -> ValueError:
    return value_error(
        f"Two tokens have the id {token_id}.",
        fix="Check the vocabulary and the added tokens.",
        tokens=list(tokens),
    )


def check_setting(name: str, value: Any) -> None:
    """Raises `ValueError` when the value of a setting is not allowed."""
    if name in ("padding_side", "truncation_side"):
        allowed, expected = value in SIDES, "'left' or 'right'"
    elif name == "model_max_length":
        integer = isinstance(value, int) and not isinstance(value, bool)
        allowed, expected = value is None or (integer and value >= 1), "an integer of at least 1"
        expected += " or None"
    elif name == "strip_accents":
        allowed = value is None or isinstance(value, bool)
        expected = "True, False or None"
    else:
        allowed, expected = isinstance(value, bool), "True or False"
    if not allowed:
        raise value_error(
            f"`{name}` must be {expected}.",
            fix="Pass one of these, or change `tokenizer_config.json`.",
            **{name: value},
        )


def check_tokens(name: str, tokens: Any) -> list[Any]:
    """Returns special tokens as a list; None is an empty one.

    Args:
        name: Name of the option.
        tokens: Its value.

    Raises:
        TypeError: It is not a list of tokens.
    """
    tokens = () if tokens is None else tokens
    one = isinstance(tokens, (str, bytes, Mapping)) or not isinstance(tokens, Iterable)
    result = [] if one else list(tokens)
    if one or None in result:
        raise type_error(
            f"`{name}` must be a list of tokens.",
            fix="Put brackets around a single token.",
            **{name: tokens},
        )
    return result


def split_extra(tokens: Any) -> tuple[list[Any], dict[str, Any]]:
    """Returns the list and the names of `extra_special_tokens`, which may be either.

    Raises:
        TypeError: It is neither.

    Example:
        >>> split_extra(["<a>"]), split_extra({"image_token": "<image>"})
        ((['<a>'], {}), ([], {'image_token': '<image>'}))
    """
    if not isinstance(tokens, Mapping):
        return check_tokens("extra_special_tokens", tokens), {}
    return [], dict(tokens)


def check_named(named: Mapping[str, Any]) -> dict[str, str]:
    """Returns the texts of special tokens with a name of their own; those that are None are left.

    Raises:
        ValueError: A name is that of a role, or a token has no text.
    """
    for name, token in named.items():
        if name in ROLES:
            raise value_error(
                "`extra_special_tokens` names special tokens that have no role.",
                fix=f"Pass `{name}` by itself.",
                **{name: token},
            )
    texts = {name: token_text(token) for name, token in named.items()}
    return {name: token for name, token in texts.items() if token is not None}


def check_pairs(merges: Any) -> tuple[tuple[str, str], ...]:
    """Returns merges as pairs of tokens, each once.

    Args:
        merges: Pairs, as `"left right"` or as two texts each. The last of equal ones counts, as in
            `tokenizers` and in transformers.

    Raises:
        TypeError: They are no list.
        ValueError: A merge is not a pair.
    """
    if isinstance(merges, (str, bytes, Mapping)) or not isinstance(merges, Iterable):
        raise type_error(
            "The merges are a list of pairs of tokens.",
            fix="Pass the lines of `merges.txt`, or use `from_pretrained(directory)`.",
            merges=merges,
        )
    pairs = tuple(map(_pair, merges))
    return tuple(dict.fromkeys(reversed(pairs)))[::-1]


def _pair(merge: Any) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    is_pair = isinstance(parts, (list, tuple)) and len(parts) == 2
    if not is_pair or not all(isinstance(part, str) and part for part in parts):
        raise value_error(
            "A merge is two tokens with one space between them.",
            fix="Check `merges.txt`; it may be cut off or belong to another kind of tokenizer.",
            merge=merge,
        )
    return tuple(parts)


def check_chat_template(value: Any) -> None:
    """Raises `ValueError` for what is neither a text, nor texts by name, nor None."""
    named = isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(text, str) for name, text in value.items()
    )
    if not (value is None or isinstance(value, str) or named):
        raise value_error(
            "`chat_template` must be a text, or texts by name.",
            fix="Check `tokenizer_config.json`.",
            chat_template=value,
        )
