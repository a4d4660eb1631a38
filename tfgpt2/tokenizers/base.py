"""Base class of the tokenizer families: a tokenizer as data.

`layer.Tokenizer` in the graph and `host.GPT2Tokenizer` on the host are made from a `TokenizerSpec`,
whatever its family.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tokenizers

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.added_tokens import (
    FLAGS,
    AddedToken,
    add_token,
    by_text,
    to_added_token,
    token_text,
)
from tfgpt2.tokenizers.graph import TokenizerGraph
from tfgpt2.tokenizers.spec_checks import (
    DEFAULT_ROLES,
    ROLES,
    check_chat_template,
    check_ids,
    check_named,
    check_setting,
    check_tokens,
    check_vocab,
    split_extra,
)
from tfgpt2.tokenizers.template import Template
from tfgpt2.validation import check_names

END_OF_TEXT = "<|endoftext|>"
_SPECIAL_TOKENS = ("additional_special_tokens", "extra_special_tokens")  # names of 4 and of 5
SETTINGS = ("padding_side", "truncation_side", "model_max_length", "split_special_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSpec(abc.ABC):
    """A tokenizer as data: everything that decides which ids a text gets.

    A family is a subclass, a frozen dataclass whose fields hold what it needs beside the vocabulary
    (merges, scores, ...), and one line in `registry.FAMILIES`. It defines:

    * `tokenizer_class`: transformers' name of the family, written to `tokenizer_config.json`;
    * `same_classes`: other names of it in `tokenizer_config.json`, if any;
    * `known_files`: the vocabulary files by which it is known where no file names a class, as
      alternatives: `(("vocab.json", "merges.txt"),)`;
    * `has_tokenizer_json`: whether the `tokenizers` library is exact for it: else vocabulary files
      win over a `tokenizer.json` beside them, and none is written;
    * `settings`: the fields that users may change and `tokenizer_config.json` holds;
    * `matches`: whether a `tokenizer.json` is of this family;
    * `fields_from_json`, `fields_from_files`, `fields_from_python`: its fields from the contents of
      a `tokenizer.json`, from vocabulary files, from a slow tokenizer of transformers; `template`
      among them, and `roles` that they decide;
    * `vocabulary_files`: the vocabulary files to write;
    * `token_to_bytes`: the bytes of a token **after other text**: the ids of a text write their
      bytes one after the other, whatever stands around them, so that stop strings, streams and
      constraints know what an id writes. A token that begins a word writes the space before it,
      and `strips_first_space` says that a whole text does not begin with it (where that depends on
      more, `text_of` and `TokenizerGraph.decode_text`). `added_to_bytes` is the same for added
      tokens;
    * `build_graph`: the operations in the graph;
    * `pipeline`: the same tokenizer of the `tokenizers` library, for the host. Where the library
      is not exact, `backend` and `encode_on_host` may be something else;
    * `create` and `check`, if its fields need to be converted or checked.

    `text_template` is what stands around texts: rows of a model's input have all of it, prompts
    what comes before a text. The last token after a text ends texts where `eos_token` is not set.

    Attributes:
        vocab: Token to id.
        added: Added tokens; some may be in `vocab` too.
        roles: Role (`"eos_token"`, ...) to token.
        additional: Special tokens without a role.
        named: Name of one's own (`"image_token"`, ...) to special token.
        template: The special tokens around texts.
        padding_side: Side on which a shorter row is padded.
        truncation_side: Side on which a longer row is cut.
        model_max_length: Longest row the model takes, or None.
        chat_template: A jinja2 template that writes conversations, templates by name, or None.
        split_special_tokens: Whether special tokens in a text are text like any other.
    """

    tokenizer_class: ClassVar[str]
    same_classes: ClassVar[tuple[str, ...]] = ()
    known_files: ClassVar[tuple[tuple[str, ...], ...]] = ()
    settings: ClassVar[tuple[str, ...]] = SETTINGS
    has_tokenizer_json: ClassVar[bool] = True

    vocab: dict[str, int]
    added: tuple[AddedToken, ...] = ()
    roles: dict[str, str] = dataclasses.field(default_factory=dict)
    additional: tuple[str, ...] = ()
    named: dict[str, str] = dataclasses.field(default_factory=dict)
    template: Template = Template()
    padding_side: str = "right"
    truncation_side: str = "right"
    model_max_length: int | None = None
    chat_template: str | dict[str, str] | None = None
    split_special_tokens: bool = False

    @classmethod
    @abc.abstractmethod
    def matches(cls, data: Mapping[str, Any]) -> bool:
        """Returns whether the contents of a `tokenizer.json` are of this family."""

    @classmethod
    @abc.abstractmethod
    def fields_from_json(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the family's fields from the contents of `tokenizer.json`.

        Raises:
            ValueError: The file asks for something that the family does not do.
        """

    @classmethod
    def fields_from_files(
        cls, find: Callable[[str], Path], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the family's fields from its vocabulary files.

        Args:
            find: From the name that transformers gives a file to its path; raises
                `FileNotFoundError` where there is none.
            config: The contents of `tokenizer_config.json` and `special_tokens_map.json`, empty
                where there are none. Roles and settings are read from it by the caller.
        """
        return {"vocab": find("tokenizer.json")}  # which is not there, or it would have been read

    @classmethod
    def fields_from_python(cls, tokenizer: Any) -> dict[str, Any] | None:
        """Returns the family's fields from a slow tokenizer of transformers, or None."""
        return None

    def vocabulary_files(self) -> dict[str, str | bytes]:
        """Returns the family's vocabulary files: name to contents, text as UTF-8.

        A family has none where only `tokenizer.json` says all of it.
        """
        return {}

    def class_config(self) -> dict[str, Any]:
        """Returns what else transformers' class needs in `tokenizer_config.json`."""
        return {}

    @abc.abstractmethod
    def token_to_bytes(self, token: str) -> bytes:
        """Returns the bytes that a token of `vocab` writes after other text."""

    def added_to_bytes(self, token: AddedToken) -> bytes:
        """Returns the bytes that an added token writes after other text."""
        return token.content.encode()

    @property
    def strips_first_space(self) -> bool:
        """Whether a whole text does not begin with the space that its first token writes."""
        return False

    @property
    def text_template(self) -> Template:
        """The special tokens around texts."""
        return self.template

    @abc.abstractmethod
    def build_graph(self, split: Sequence[AddedToken]) -> TokenizerGraph:
        """Returns the operations in the graph.

        Args:
            split: The added tokens that are split off from texts.
        """

    @abc.abstractmethod
    def pipeline(self) -> tokenizers.Tokenizer:
        """Returns the tokenizer of the `tokenizers` library, without its added tokens."""

    @classmethod
    def create(
        cls,
        vocab: Mapping[str, int],
        *,
        added: Iterable[AddedToken] = (),
        roles: Mapping[str, Any] | None = None,
        additional: Iterable[Any] = (),
        named: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> TokenizerSpec:
        """Returns a checked specification, with an id for every special token.

        Args:
            vocab: Token to id.
            added: Added tokens whose ids are known.
            roles: Role to token (text or `{"content": ..., "lstrip": ...}`), None for no such
                token. A token that has no id yet gets the next free one. Where `bos_token`,
                `eos_token` or `unk_token` is not given, `<|endoftext|>` takes the role if it has an
                id.
            additional: Special tokens without a role, like the values of `roles`.
            named: Special tokens by a name of one's own, like `roles`.
            **fields: The other fields.

        Raises:
            TypeError: The vocabulary or a list of tokens has another type.
            ValueError: An id is used twice, negative or far too large, or a field's value is not
                allowed.
        """
        vocab = check_vocab(vocab)
        additional = check_tokens("additional_special_tokens", additional)
        tokens = by_text(added)
        texts = {role: token_text(token) for role, token in (roles or {}).items()}
        names = check_named(named or {})
        for token in [*(roles or {}).values(), *additional, *(named or {}).values()]:
            add_token(token, tokens, vocab)
        for role in DEFAULT_ROLES:
            if role not in texts and (END_OF_TEXT in vocab or END_OF_TEXT in tokens):
                texts[role] = END_OF_TEXT
                add_token(END_OF_TEXT, tokens, vocab)
        result = cls(
            vocab=vocab,
            added=_by_id(tokens),
            roles={role: texts[role] for role in ROLES if texts.get(role) is not None},
            additional=tuple(dict.fromkeys(token_text(token) for token in additional)),
            named=names,
            **fields | {"template": Template.from_options(fields.get("template"))},
        )
        result.check()
        return result

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Returns the names of the arguments of `from_options`."""
        own = {field.name for field in dataclasses.fields(cls)}
        own -= {"added", "roles", "additional", "named"}
        return (*ROLES, *sorted(own), "added_tokens", *_SPECIAL_TOKENS)

    @classmethod
    def changeable_options(cls) -> tuple[str, ...]:
        """Returns the names of the arguments of `replace`."""
        return (*ROLES, *cls.settings, "chat_template", *_SPECIAL_TOKENS)

    @classmethod
    def from_options(cls, *vocabulary: Any, **options: Any) -> TokenizerSpec:
        """Returns a specification from the arguments of a layer; `to_options` is the inverse.

        Args:
            *vocabulary: The positional arguments of `create`.
            **options: Roles, fields, `added_tokens` (as `AddedToken` or mappings of its fields),
                `additional_special_tokens` (a list) and `extra_special_tokens` (a list, or names to
                tokens).
        """
        added = check_tokens("added_tokens", options.pop("added_tokens", None))
        extra, named = split_extra(options.pop("extra_special_tokens", None))
        additional = options.pop("additional_special_tokens", None)
        return cls.create(
            *vocabulary,
            added=[to_added_token(token) for token in added],
            roles={role: options.pop(role) for role in ROLES if role in options},
            additional=check_tokens("additional_special_tokens", additional) + extra,
            named=named,
            **options,
        )

    def to_options(self) -> dict[str, Any]:
        """Returns the arguments of `from_options` that make an equal specification, for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        names = ("added", "roles", "named", "template", "chat_template")
        added, roles, named, template, chat = (values.pop(name) for name in names)
        return {
            **dict.fromkeys(DEFAULT_ROLES),
            **roles,
            "additional_special_tokens": list(values.pop("additional")),
            **({"extra_special_tokens": dict(named)} if named else {}),
            **({"template": template.to_options()} if template else {}),
            **({} if chat is None else {"chat_template": chat}),
            "added_tokens": [dataclasses.asdict(token) for token in added],
            **values,
        }

    def replace(self, **options: Any) -> TokenizerSpec:
        """Returns a specification with roles or settings replaced, checked again.

        Args:
            **options: Roles (`eos_token="</s>"`), settings (`padding_side="left"`),
                `chat_template`, `additional_special_tokens`, or `extra_special_tokens` (a list
                replaces the additional ones; names to tokens are added to the named ones).

        Raises:
            TypeError: There is no such option.
            ValueError: An option's value is not allowed.
        """
        check_names(options, (*self.changeable_options(), *self.named))
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        own = (*self.settings, "chat_template")
        fields |= {name: options[name] for name in own if name in options}
        fields["roles"] = dict.fromkeys(DEFAULT_ROLES) | self.roles
        fields["roles"] |= {role: options[role] for role in ROLES if role in options}
        extra, named = split_extra(options.get("extra_special_tokens"))
        if "additional_special_tokens" in options or extra:
            given = options.get("additional_special_tokens")
            fields["additional"] = check_tokens("additional_special_tokens", given) + extra
        named |= {name: options[name] for name in self.named if name in options}
        fields["named"] = self.named | named
        return self.create(**fields)

    def add(self, tokens: Iterable[Any], special: bool) -> TokenizerSpec:
        """Returns a specification with more added tokens; new ones get the next free ids.

        Args:
            tokens: Tokens, as text or as `tokenizers.AddedToken`.
            special: Whether decoding can skip them.
        """
        added = {token.content: token for token in self.added}
        for token in tokens:
            add_token(token, added, self.vocab, special)
        result = dataclasses.replace(self, added=_by_id(added))
        result.check()
        return result

    @property
    def size(self) -> int:
        """Number of ids, holes included: the largest id plus one."""
        return 1 + max([*self.vocab.values(), *(token.id for token in self.added)], default=-1)

    @property
    def tokens(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return self.vocab | {token.content: token.id for token in self.added}

    @property
    def split_off(self) -> tuple[AddedToken, ...]:
        """The added tokens that are found in texts."""
        return tuple(t for t in self.added if not (t.special and self.split_special_tokens))

    @property
    def special_ids(self) -> set[int]:
        """Ids of the added tokens that decoding can skip."""
        return {token.id for token in self.added if token.special}

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id, `b""` for an id without a token."""
        table = [b""] * self.size
        for token, token_id in self.vocab.items():
            table[token_id] = self.token_to_bytes(token)
        for token in self.added:
            table[token.id] = self.added_to_bytes(token)
        return table

    def join(self, pieces: Iterable[bytes]) -> str:
        """Returns a whole text from the bytes of its tokens; U+FFFD for invalid UTF-8."""
        text = b"".join(pieces)
        text = text.removeprefix(b" ") if self.strips_first_space else text
        return text.decode("utf-8", errors="replace")

    def text_of(self, ids: Iterable[int]) -> str:
        """Returns a whole text from its ids, all of them in the vocabulary."""
        return self.join(self.token_bytes[i] for i in ids)

    def id_of(self, token: str | None) -> int | None:
        """Returns the id of a token, or None when there is no such token."""
        for added in self.added:
            if added.content == token:
                return added.id
        return None if token is None else self.vocab.get(token)

    def role_id(self, role: str) -> int | None:
        """Returns the id of the token that has a role, or None."""
        return self.id_of(self.roles.get(role))

    @property
    def prefix_ids(self) -> list[int]:
        """The ids before each text, also before a prompt."""
        return [self.id_of(token) for token in self.text_template.prefix]

    @property
    def suffix_ids(self) -> list[int]:
        """The ids after each text; a prompt goes on instead."""
        return [self.id_of(token) for token in self.text_template.suffix]

    @property
    def end_id(self) -> int | None:
        """The id that ends texts: of `eos_token`, else the last one after each text, or None."""
        found = self.role_id("eos_token")
        return next(reversed(self.suffix_ids), None) if found is None else found

    def backend(self) -> tokenizers.Tokenizer:
        """Returns the tokenizer of the `tokenizers` library that gives the same ids as the graph.

        Raises:
            ValueError: An added token has an id that `tokenizers` would not give it.
        """
        result = self.pipeline()
        result.encode_special_tokens = self.split_special_tokens
        flags = ("special", *FLAGS)
        result.add_tokens(
            [
                tokenizers.AddedToken(
                    token.content, **{flag: getattr(token, flag) for flag in flags}
                )
                for token in self.added
            ]
        )
        for token in self.added:
            given = result.token_to_id(token.content)
            if given != token.id:
                raise value_error(
                    "`tokenizers` numbers added tokens without holes, so it cannot hold this one.",
                    fix=f"Give it the id {given}.",
                    token=token.content,
                    id=token.id,
                )
        if self.text_template:
            template = self.text_template.to_processor(self.tokens)
            steps = [step for step in (result.post_processor, template) if step is not None]
            result.post_processor = tokenizers.processors.Sequence(steps)
        return result

    def encode_on_host(
        self, backend: tokenizers.Tokenizer, texts: list[str]
    ) -> list[tokenizers.Encoding]:
        """Returns ids, tokens and offsets of texts without the special tokens around them.

        Args:
            backend: What `backend` returned.
            texts: The texts.
        """
        return backend.encode_batch(texts, add_special_tokens=False)

    def check(self) -> None:
        """Checks that the fields have allowed values and fit together.

        Raises:
            ValueError: They do not.
        """
        check_ids(self.vocab, self.added)
        for name in self.settings:
            check_setting(name, getattr(self, name))
        check_chat_template(self.chat_template)
        for token in self.template.tokens:
            if self.id_of(token) is None:
                raise value_error(
                    "A token that stands before or after each text is not in the vocabulary.",
                    fix="Add it to the vocabulary or to the added tokens.",
                    template=token,
                )

    def check_role(self, role: str, setting: str) -> None:
        """Raises `ValueError` when a setting needs a role that no token has."""
        if self.role_id(role) is None:
            raise value_error(
                f"`{setting}` needs a `{role}`, and the tokenizer has none.",
                fix=f"Pass `{role}=`.",
                **{role: self.roles.get(role)},
            )


def _by_id(tokens: Mapping[str, AddedToken]) -> tuple[AddedToken, ...]:
    return tuple(sorted(tokens.values(), key=lambda token: token.id))
