"""A tokenizer as data: everything that decides which ids a text gets.

Both faces, the layer in the graph and the tokenizer on the host, are made from a `Spec`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers

from tfgpt2.errors import explain, nearest
from tfgpt2.tokenizers import bpe

END_OF_TEXT = "<|endoftext|>"
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
SETTINGS = (
    "add_prefix_space",
    "add_bos_token",
    "padding_side",
    "truncation_side",
    "model_max_length",
)
SIDES = ("left", "right")
REPLACEABLE = (*ROLES, *SETTINGS, "additional_special_tokens")


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that is cut out of the text before anything else looks at it.

    Attributes:
        content: Its text.
        id: Its id.
        special: Whether decoding can skip it.
        lstrip: Whether white space before it belongs to it.
        rstrip: Whether white space after it belongs to it.
        normalized: Whether it is looked for after the other added tokens.
    """

    content: str
    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything that decides which ids a text gets.

    Attributes:
        vocab: Token to id, in the characters of `vocab.json`.
        merges: Pairs of tokens, the most urgent first.
        added: Added tokens; some may be in `vocab` too.
        roles: Role (`"eos_token"`, ...) to token.
        additional: Further special tokens.
        add_prefix_space: Whether text is taken as if a space stood before it.
        add_bos_token: Whether each text starts with `bos_token`.
        padding_side: Where a shorter row is filled.
        truncation_side: Where a longer row is cut.
        model_max_length: Longest row the model takes, or None.
        unk_in_model: Whether bytes without a token become `unk_token` instead of being dropped.
        fuse_unk: Whether neighbouring bytes without a token become one `unk_token`.
    """

    vocab: dict[str, int]
    merges: tuple[tuple[str, str], ...]
    added: tuple[AddedToken, ...] = ()
    roles: dict[str, str] = dataclasses.field(default_factory=dict)
    additional: tuple[str, ...] = ()
    add_prefix_space: bool = False
    add_bos_token: bool = False
    padding_side: str = "right"
    truncation_side: str = "right"
    model_max_length: int | None = None
    unk_in_model: bool = False
    fuse_unk: bool = False

    def id_of(self, token: str | None) -> int | None:
        """Returns the id of a token, or None when there is no such token."""
        for added in self.added:
            if added.content == token:
                return added.id
        return None if token is None else self.vocab.get(token)

    @property
    def size(self) -> int:
        """Number of ids, holes included: the largest id plus one."""
        return 1 + max([*self.vocab.values(), *(token.id for token in self.added)], default=-1)


def make(
    vocab: Mapping[str, int],
    merges: Iterable[str | tuple[str, str]],
    *,
    added: Iterable[AddedToken] = (),
    roles: Mapping[str, Any] | None = None,
    additional: Iterable[Any] = (),
    **settings: Any,
) -> Spec:
    """Returns a checked `Spec`, with an id for every special token.

    Args:
        vocab: Token to id.
        merges: Pairs, as tuples or as `"left right"`.
        added: Added tokens whose ids are known.
        roles: Role to token (text or `{"content": ..., "lstrip": ...}`), None for no such token. A
            token that has no id yet gets the next free one. Where `bos_token`, `eos_token` or
            `unk_token` is not mentioned, `<|endoftext|>` takes the role if it has an id.
        additional: Further special tokens, like the values of `roles`.
        **settings: The other fields of `Spec`.

    Returns:
        The specification.

    Raises:
        TypeError: The vocabulary or the merges have another type.
        ValueError: An id is used twice or is negative, a merge is no pair, a side has another name.

    Example:
        >>> spec = make({"a": 0, "b": 1, "ab": 2}, ["a b"], roles={"pad_token": "[PAD]"})
        >>> spec.merges, spec.id_of("[PAD]"), spec.size
        ((('a', 'b'),), 3, 4)
    """
    vocab = _check_vocab(vocab)
    if isinstance(additional, str):
        raise TypeError(
            explain(
                "`additional_special_tokens` must be a list of tokens.",
                fix="Put brackets around a single token.",
                additional_special_tokens=additional,
            )
        )
    tokens = {token.content: token for token in added}
    wanted = {role: content(token) for role, token in (roles or {}).items()}
    for value in [*(roles or {}).values(), *additional]:
        _add_special(value, vocab, tokens)
    for role in ("bos_token", "eos_token", "unk_token"):
        if role not in wanted and (END_OF_TEXT in vocab or END_OF_TEXT in tokens):
            wanted[role] = END_OF_TEXT
            _add_special(END_OF_TEXT, vocab, tokens)
    spec = Spec(
        vocab=vocab,
        merges=tuple(_pair(merge) for merge in merges),
        added=tuple(sorted(tokens.values(), key=lambda token: token.id)),
        roles={role: token for role, token in wanted.items() if token is not None},
        additional=tuple(content(token) for token in additional),
        **settings,
    )
    _check(spec)
    return spec


def replace(spec: Spec, **options: Any) -> Spec:
    """Returns a specification with roles or settings replaced, checked again.

    Args:
        spec: Where to start.
        **options: Roles (`eos_token="</s>"`), settings (`padding_side="left"`) or
            `additional_special_tokens`.

    Returns:
        The new specification.

    Raises:
        TypeError: There is no such option.
        ValueError: An option's value is not allowed.

    Example:
        >>> spec = make({"a": 0, "b": 1}, [])
        >>> replace(spec, eos_token="b", padding_side="left").roles
        {'eos_token': 'b'}
    """
    for option in options:
        if option not in REPLACEABLE:
            raise TypeError(
                explain(
                    f"The tokenizer has no option {option!r}.",
                    fix=nearest(option, REPLACEABLE),
                    **{option: options[option]},
                )
            )
    absent = dict.fromkeys(("bos_token", "eos_token", "unk_token"))
    roles = absent | spec.roles | {role: options[role] for role in ROLES if role in options}
    settings = {
        field.name: getattr(spec, field.name)
        for field in dataclasses.fields(spec)
        if field.name not in ("vocab", "merges", "added", "roles", "additional")
    }
    return make(
        spec.vocab,
        spec.merges,
        added=spec.added,
        roles=roles,
        additional=options.get("additional_special_tokens", spec.additional) or (),
        **settings | {key: options[key] for key in SETTINGS if key in options},
    )


def add(spec: Spec, tokens: Iterable[Any], special: bool) -> Spec:
    """Returns a specification with more added tokens; those without an id get the next free one.

    Args:
        spec: Where to start.
        tokens: Tokens, as text or as `tokenizers.AddedToken`.
        special: Whether decoding can skip them.

    Returns:
        The new specification.

    Example:
        >>> add(make({"a": 0}, []), ["<x>", "<y>"], special=False).id_of("<y>")
        2
    """
    known = {token.content: token for token in spec.added}
    for token in tokens:
        _add_special(token, spec.vocab, known, special)
    result = dataclasses.replace(spec, added=tuple(sorted(known.values(), key=lambda t: t.id)))
    _check(result)
    return result


def content(token: Any) -> str | None:
    """Returns the text of a special token given as text, as a mapping or as an `AddedToken`."""
    if isinstance(token, Mapping):
        token = token.get("content")
    token = getattr(token, "content", token)
    if token is None or (isinstance(token, str) and token):
        return token
    raise ValueError(
        explain(
            "A special token is a non-empty string or None.",
            fix="Pass its text.",
            token=token,
        )
    )


def added_token(token: Any, token_id: int, special: bool = True) -> AddedToken:
    """Returns an `AddedToken` from text, from a mapping of a file or from a `tokenizers` object."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    if isinstance(token, str):
        token = {"content": token}
    elif not isinstance(token, Mapping):
        token = {key: getattr(token, key) for key in (*flags, "content") if hasattr(token, key)}
    if token.get("single_word"):
        raise ValueError(
            explain(
                "Added tokens that match whole words only are not supported.",
                fix="Set `single_word` to false.",
                token=token["content"],
            )
        )
    return AddedToken(
        content=content(token),
        id=int(token_id),
        special=bool(token.get("special", special)),
        **{key: bool(token.get(key, False)) for key in ("lstrip", "rstrip", "normalized")},
    )


def backend(spec: Spec) -> tokenizers.Tokenizer:
    """Returns the `tokenizers` tokenizer of a specification.

    Args:
        spec: The tokenizer.

    Returns:
        A tokenizer that gives the same ids as the graph.

    Raises:
        ValueError: An added token has an id that `tokenizers` would not give it.

    Example:
        >>> backend(make({"a": 0, "b": 1, "ab": 2}, ["a b"])).encode("abb").ids
        [2, 1]
    """
    unk = spec.roles.get("unk_token") if spec.unk_in_model else None
    model = tokenizers.models.BPE(
        spec.vocab, list(spec.merges), unk_token=unk, fuse_unk=spec.fuse_unk
    )
    result = tokenizers.Tokenizer(model)
    result.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=spec.add_prefix_space
    )
    result.decoder = tokenizers.decoders.ByteLevel()
    result.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    for token in spec.added:
        flags = {key: getattr(token, key) for key in ("lstrip", "rstrip", "normalized", "special")}
        result.add_tokens([tokenizers.AddedToken(token.content, **flags)])
        if result.token_to_id(token.content) != token.id:
            raise ValueError(
                explain(
                    "`tokenizers` numbers added tokens without holes, so it cannot hold this one.",
                    fix=f"Give it the id {result.token_to_id(token.content)}.",
                    token=token.content,
                    id=token.id,
                )
            )
    if spec.add_bos_token:
        bos = spec.roles["bos_token"]
        result.post_processor = tokenizers.processors.TemplateProcessing(
            single=[bos, "$A"],
            pair=[bos, "$A", f"{bos}:1", "$B:1"],
            special_tokens=[(bos, spec.id_of(bos))],
        )
    return result


def _add_special(
    value: Any, vocab: Mapping[str, int], tokens: dict[str, AddedToken], special: bool = True
) -> None:
    """Makes sure that a token is among the added tokens."""
    text = content(value)
    if text is None:
        return
    if text in tokens:
        old = tokens[text]
        tokens[text] = dataclasses.replace(old, special=old.special or special)
        return
    taken = [*vocab.values(), *(token.id for token in tokens.values())]
    token_id = vocab.get(text, max(taken, default=-1) + 1)
    tokens[text] = dataclasses.replace(added_token(value, token_id), special=special)


def _pair(merge: str | tuple[str, str]) -> tuple[str, str]:
    parts = tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
    if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise ValueError(
            explain(
                "A merge is two tokens with one space between them.",
                fix="Check `merges.txt`; it may be cut off or belong to another kind of tokenizer.",
                merge=merge,
            )
        )
    return parts


def _check_vocab(vocab: Mapping[str, int]) -> dict[str, int]:
    if not isinstance(vocab, Mapping):
        raise TypeError(
            explain(
                "The vocabulary maps each token to its id.",
                fix="Pass the contents of `vocab.json`, or use `from_pretrained(directory)`.",
                vocab=vocab,
            )
        )
    for token, token_id in vocab.items():
        if not isinstance(token, str) or type(token_id) is not int or token_id < 0:
            raise ValueError(
                explain(
                    "The vocabulary maps text to ids, integers of at least 0.",
                    fix="Check `vocab.json`.",
                    token=token,
                    id=token_id,
                )
            )
    return dict(vocab)


def _check(spec: Spec) -> None:
    """Raises when the parts of a specification contradict each other."""
    bpe.check_merges(spec.vocab, spec.merges)
    owners: dict[int, str] = {}
    for token, token_id in [*spec.vocab.items(), *((t.content, t.id) for t in spec.added)]:
        if owners.setdefault(token_id, token) != token:
            raise ValueError(
                explain(
                    f"Two tokens have the id {token_id}.",
                    fix="Check `vocab.json` and the added tokens.",
                    tokens=[owners[token_id], token],
                )
            )
    limit, flag, side = "an integer of at least 1 or None", "True or False", "'left' or 'right'"
    for setting, wanted in (
        ("padding_side", side),
        ("truncation_side", side),
        ("model_max_length", limit),
        ("add_prefix_space", flag),
        ("add_bos_token", flag),
    ):
        value = getattr(spec, setting)
        integer = isinstance(value, int) and not isinstance(value, bool)
        good = {
            side: value in SIDES,
            limit: value is None or (integer and value >= 1),
            flag: isinstance(value, bool),
        }
        if not good[wanted]:
            raise ValueError(
                explain(
                    f"`{setting}` must be {wanted}.",
                    fix="Pass one of these, or mend `tokenizer_config.json`.",
                    **{setting: value},
                )
            )
    for setting, role, wanted in (
        ("add_bos_token", "bos_token", spec.add_bos_token),
        ("unk_in_model", "unk_token", spec.unk_in_model),
    ):
        if wanted and spec.id_of(spec.roles.get(role)) is None:
            raise ValueError(
                explain(
                    f"`{setting}` needs a `{role}`, and the tokenizer has none.",
                    fix=f"Pass `{role}=`.",
                    **{role: spec.roles.get(role)},
                )
            )
