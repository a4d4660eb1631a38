"""A tokenizer as data: read from files or from another tokenizer, written to files.

`Spec` holds everything that decides which ids a text gets. Both faces, the layer in the graph and
the tokenizer on the host, are made from one and written back through one.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from tfgpt2.checkpoints.hub import Repository
from tfgpt2.errors import explain, nearest

END_OF_TEXT = "<|endoftext|>"
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
SIDES = ("left", "right")
_SOURCE = Repository.__dataclass_fields__.keys() - {"name"}


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


SETTINGS = (
    "add_prefix_space",
    "add_bos_token",
    "padding_side",
    "truncation_side",
    "model_max_length",
)


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
    tokens = {token.content: token for token in added}
    wanted = {role: _content(token) for role, token in (roles or {}).items()}
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
        additional=tuple(_content(token) for token in additional),
        **settings,
    )
    _check(spec)
    return spec


def read(name: str | os.PathLike[str], **options: Any) -> Spec:
    """Reads a tokenizer from a directory, a bundled model or the hub.

    `tokenizer.json` decides the ids when there is one, else `vocab.json` and `merges.txt`;
    `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` add to either.

    Args:
        name: Directory, bundled name or hub name.
        **options: Where to look (see `Repository`), roles and settings that replace the files'.

    Returns:
        The specification.

    Raises:
        FileNotFoundError: There is no such model, or it has no tokenizer.
        ValueError: A file is damaged, or asks for something that GPT-2's tokenizer does not do.
    """
    source = {key: options.pop(key) for key in list(options) if key in _SOURCE}
    repository = Repository(name, **source)
    config = _json(repository, "tokenizer_config.json") or {}
    names = (_json(repository, "special_tokens_map.json") or {}) | config
    whole = _json(repository, "tokenizer.json")
    if whole is not None:
        found = _from_backend(whole)
    else:
        found = {
            "vocab": _json(repository, "vocab.json", required=True),
            "merges": _read_merges(repository.require("merges.txt")),
            "added": [],
        }
    known = {token.content for token in found["added"]}
    found["added"] += [
        token for token in _listed(repository, config) if token.content not in known
    ]
    return _finish(found, names, options)


def from_tokenizer(tokenizer: Any, **options: Any) -> Spec:
    """Reads the tokenizer that another object holds.

    Args:
        tokenizer: A `tokenizers.Tokenizer`, a slow or fast tokenizer of transformers, or ours.
        **options: Roles and settings that replace the tokenizer's.

    Returns:
        The specification.

    Raises:
        TypeError: The object is none of these.
        ValueError: The tokenizer does something that GPT-2's does not do.
    """
    if isinstance(getattr(tokenizer, "spec", None), Spec):
        return replace(tokenizer.spec, **options)
    backend = tokenizer if isinstance(tokenizer, tokenizers.Tokenizer) else None
    backend = backend or getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        found = _from_backend(json.loads(backend.to_str()))
    elif hasattr(tokenizer, "bpe_ranks") and hasattr(tokenizer, "encoder"):
        found = {
            "vocab": dict(tokenizer.encoder),
            "merges": sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get),
            "added": [
                _added(vars(token) if not isinstance(token, Mapping) else token, token_id)
                if isinstance(token, Mapping)
                else _added_like(token, token_id)
                for token_id, token in tokenizer.added_tokens_decoder.items()
            ],
        }
    else:
        raise TypeError(
            explain(
                "Expected a `tokenizers.Tokenizer` or a GPT-2 tokenizer of transformers.",
                fix="Use `from_pretrained(directory)` for files.",
                tokenizer=tokenizer,
            )
        )
    names = {
        role: str(getattr(tokenizer, role))
        for role in ROLES
        if isinstance(getattr(tokenizer, role, None), (str, tokenizers.AddedToken))
    }
    if backend is not tokenizer:
        # A transformers object that has no bos_token means "none", not "the usual one".
        names = dict.fromkeys(("bos_token", "eos_token", "unk_token")) | names
    names |= {key: getattr(tokenizer, key) for key in SETTINGS if hasattr(tokenizer, key)}
    return _finish(found, names, options)


def replace(spec: Spec, **options: Any) -> Spec:
    """Returns a specification with some roles or settings replaced, and checked again."""
    found = {"vocab": spec.vocab, "merges": spec.merges, "added": list(spec.added)}
    found |= {"unk_in_model": spec.unk_in_model, "fuse_unk": spec.fuse_unk}
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token")) | spec.roles
    names |= {key: getattr(spec, key) for key in SETTINGS}
    return _finish(found, names | {"additional_special_tokens": spec.additional}, options)


def write(spec: Spec, directory: str | os.PathLike[str]) -> list[Path]:
    """Writes the files that `tokenizers`, transformers and `read` load.

    Args:
        spec: The tokenizer.
        directory: Folder to write to, made if it is not there.

    Returns:
        The files written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    roles = {role: spec.roles.get(role) for role in ("bos_token", "eos_token", "unk_token")}
    roles |= spec.roles
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "added_tokens_decoder": {
            str(token.id): {
                key: value for key, value in dataclasses.asdict(token).items() if key != "id"
            }
            | {"single_word": False}
            for token in spec.added
        },
        "additional_special_tokens": list(spec.additional),
        "model_max_length": spec.model_max_length or int(1e30),
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        **roles,
        **{key: getattr(spec, key) for key in SETTINGS if key != "model_max_length"},
    }
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in spec.merges)]
    texts = {
        "vocab.json": json.dumps(spec.vocab, ensure_ascii=False),
        "merges.txt": "\n".join(lines) + "\n",
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(spec.roles, ensure_ascii=False, indent=2) + "\n",
        "tokenizer.json": backend(spec).to_str(pretty=True) + "\n",
    }
    for filename, text in texts.items():
        (folder / filename).write_text(text, encoding="utf-8", newline="\n")
    return [folder / filename for filename in texts]
