"""Special tokens, settings and vocabulary of a tokenizer on the host, named as in transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.added_tokens import FLAGS, AddedToken, token_text
from tfgpt2.tokenizers.base import ROLES, TokenizerSpec
from tfgpt2.tokenizers.registry import FAMILIES
from tfgpt2.validation import check_names

NO_LIMIT = int(1e30)  # what transformers says for "no model_max_length"


class SpecialTokensMixin:
    """Attributes and methods of special tokens, settings and vocabulary.

    Each role is an attribute (`eos_token`, which can be set) with its id (`eos_token_id`), and each
    setting is an attribute that can be set (`padding_side`).

    Attributes:
        spec: The tokenizer.
        backend_tokenizer: The tokenizer of the `tokenizers` library.
    """

    SPECIAL_TOKENS_ATTRIBUTES = [*ROLES, "additional_special_tokens"]
    spec: TokenizerSpec
    backend_tokenizer: tokenizers.Tokenizer
    _additional_unset = False

    def _set_spec(self, spec: TokenizerSpec) -> None:
        """Sets the specification, from which everything else follows."""
        self.spec, self._additional_unset = spec, False
        self.backend_tokenizer = spec.backend()
        self.__dict__.pop("_changed", None)  # see `EncodingMethods`

    def __len__(self) -> int:
        return len(self.get_vocab())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, roles={self.spec.roles})"

    @property
    def vocab_size(self) -> int:
        """Number of tokens without the added ones."""
        return len(self.spec.vocab)

    def get_vocab(self) -> dict[str, int]:
        """Returns token to id, added tokens included."""
        return self.spec.tokens

    @property
    def vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, tokenizers.AddedToken]:
        """Id to added token, with its flags."""
        return {token.id: _with_flags(token) for token in self.spec.added}

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Token to id of the added tokens."""
        return self.get_added_vocab()

    @property
    def model_max_length(self) -> int:
        """The longest row the model takes; a huge number where that is unknown. Can be set."""
        limit = self.spec.model_max_length
        return NO_LIMIT if limit is None else limit

    @model_max_length.setter
    def model_max_length(self, value: int | None) -> None:
        huge = isinstance(value, (int, float)) and value >= NO_LIMIT
        self._set_spec(self.spec.replace(model_max_length=None if huge else value))

    def get_added_vocab(self) -> dict[str, int]:
        """Returns token to id of the added tokens."""
        return {token.content: token.id for token in self.spec.added}

    def __getattr__(self, name: str) -> Any:
        """Returns a special token with a name of its own, such as `image_token`, or its id."""
        named = self.__dict__["spec"].named if "spec" in self.__dict__ else {}
        if name in named:
            return named[name]
        if name.endswith("_id") and name.removesuffix("_id") in named:
            return self.spec.id_of(named[name.removesuffix("_id")])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def all_special_tokens_extended(self) -> list[tokenizers.AddedToken]:
        """`all_special_tokens` with their flags."""
        known = {token.content: _with_flags(token) for token in self.spec.added}
        return [known.get(token, token) for token in self.all_special_tokens]

    @property
    def special_tokens_map_extended(self) -> dict[str, Any]:
        """`special_tokens_map` with the flags of the tokens."""
        known = {token.content: _with_flags(token) for token in self.spec.added}
        return {
            name: known.get(token, token) if isinstance(token, str) else [known[t] for t in token]
            for name, token in self.special_tokens_map.items()
        }

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """Role or name to token, and `additional_special_tokens` if there are any."""
        extra = list(self.spec.additional)
        named = self.spec.roles | self.spec.named
        return named | ({"additional_special_tokens": extra} if extra else {})

    @property
    def additional_special_tokens(self) -> list[str] | None:
        """The special tokens without a role or a name; None where that was assigned."""
        return None if self._additional_unset else list(self.spec.additional)

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens: Sequence[Any] | None) -> None:
        self._set_spec(self.spec.replace(additional_special_tokens=tokens))
        self._additional_unset = tokens is None

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """Ids of `additional_special_tokens`; can be set."""
        return [self.spec.id_of(token) for token in self.spec.additional]

    @additional_special_tokens_ids.setter
    def additional_special_tokens_ids(self, ids: Sequence[int]) -> None:
        self.additional_special_tokens = [
            _token_of(self, "additional_special_tokens_ids", token_id) for token_id in ids
        ]

    @property
    def extra_special_tokens(self) -> list[str]:
        """The name of `additional_special_tokens` in transformers 5."""
        return list(self.spec.additional)

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Any) -> None:
        self._set_spec(self.spec.replace(extra_special_tokens=tokens))

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once, those with a role first, then those with a name."""
        spec = self.spec
        return list(dict.fromkeys([*spec.roles.values(), *spec.named.values(), *spec.additional]))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`."""
        return [self.spec.id_of(token) for token in self.all_special_tokens]

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Any],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Assigns tokens to roles; those without an id get the next free one.

        Args:
            special_tokens_dict: Role to token, such as `{"cls_token": "[CLS]"}`; the tokens of
                `"additional_special_tokens"` replace the current ones, and so does a list of
                `"extra_special_tokens"`; names to tokens, such as `{"image_token": "<image>"}`,
                are added.
            replace_additional_special_tokens: False adds to the current additional ones instead.

        Returns:
            Number of new tokens. The model's embeddings must grow by as many rows.

        Raises:
            TypeError: There is no such role.
        """
        lists = ("additional_special_tokens", "extra_special_tokens")
        check_names(special_tokens_dict, (*ROLES, *lists, *self.spec.named))
        before, changes = len(self), dict(special_tokens_dict)
        if not replace_additional_special_tokens and lists[0] in changes:
            changes[lists[0]] = [*self.spec.additional, *changes[lists[0]]]
        self._set_spec(self.spec.replace(**changes))
        return len(self) - before

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Adds tokens that are split off from a text before the rest of the tokenizer runs.

        Args:
            new_tokens: A token or a list of tokens, as text or as `tokenizers.AddedToken`.
            special_tokens: Whether decoding can skip them.

        Returns:
            Number of new tokens.
        """
        single = isinstance(new_tokens, (str, tokenizers.AddedToken))
        before = len(self)
        tokens = [new_tokens] if single else new_tokens
        self._set_spec(self.spec.add(tokens, special=special_tokens))
        return len(self) - before


def _with_flags(token: AddedToken) -> tokenizers.AddedToken:
    """An added token as the `tokenizers` library has it."""
    flags = {flag: getattr(token, flag) for flag in ("special", *FLAGS)}
    return tokenizers.AddedToken(token.content, **flags)


def _role(name: str) -> property:
    """Returns the property of a role: its token, or None; it can be set to a token with an id."""

    def get(self: SpecialTokensMixin) -> str | None:
        return self.spec.roles.get(name)

    def put(self: SpecialTokensMixin, token: Any) -> None:
        if token is not None and self.spec.id_of(token_text(token)) is None:
            raise value_error(
                f"`{name}` must be a token of the vocabulary.",
                fix=f"Add it first: `tokenizer.add_special_tokens({{{name!r}: ...}})`.",
                **{name: token},
            )
        self._set_spec(self.spec.replace(**{name: token}))

    return property(get, put, doc=f"The `{name}`, or None.")


def _role_id(name: str) -> property:
    """Returns the property of a role's id; it can be set to the id of any token, or to None."""

    def put(self: SpecialTokensMixin, token_id: int | None) -> None:
        setattr(self, name, None if token_id is None else _token_of(self, f"{name}_id", token_id))

    return property(
        lambda self: self.spec.role_id(name), put, doc=f"Id of `{name}`, or None; can be set."
    )


def _token_of(tokenizer: SpecialTokensMixin, name: str, token_id: Any) -> str:
    """Returns the token of an id that is assigned to an attribute."""
    for token, known in tokenizer.get_vocab().items():
        if known == token_id:
            return token
    raise value_error(
        f"`{name}` must be the id of a token of the vocabulary.",
        fix="Add the token first: `tokenizer.add_special_tokens({...})`.",
        **{name: token_id},
    )


def _setting(name: str) -> property:
    """Returns the property of a setting."""

    def put(self: SpecialTokensMixin, value: Any) -> None:
        self._set_spec(self.spec.replace(**{name: value}))

    return property(
        lambda self: getattr(self.spec, name), put, doc=f"Setting `{name}`, see `spec`."
    )


for _name in {n for family in FAMILIES.values() for n in family.settings} - {"model_max_length"}:
    setattr(SpecialTokensMixin, _name, _setting(_name))
for _name in ROLES:
    setattr(SpecialTokensMixin, _name, _role(_name))
    setattr(SpecialTokensMixin, f"{_name}_id", _role_id(_name))
