"""Special tokens, settings and vocabulary of a tokenizer on the host, named as in transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.added_tokens import token_text
from tfgpt2.tokenizers.base import ROLES, TokenizerSpec
from tfgpt2.tokenizers.registry import FAMILIES
from tfgpt2.validation import check_names


class SpecialTokensMixin:
    """Attributes and methods of special tokens, settings and vocabulary.

    Each role is an attribute (`eos_token`, which can be set) with its id (`eos_token_id`), and each
    setting is an attribute that can be set (`padding_side`).

    Attributes:
        spec: The tokenizer.
        backend_tokenizer: The tokenizer of the `tokenizers` library.
    """

    spec: TokenizerSpec
    backend_tokenizer: tokenizers.Tokenizer

    def _set_spec(self, spec: TokenizerSpec) -> None:
        """Sets the specification, from which everything else follows."""
        self.spec = spec
        self.backend_tokenizer = spec.backend()

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
    def special_tokens_map(self) -> dict[str, Any]:
        """Role or name to token, and `additional_special_tokens` if there are any."""
        extra = list(self.spec.additional)
        named = self.spec.roles | self.spec.named
        return named | ({"additional_special_tokens": extra} if extra else {})

    @property
    def additional_special_tokens(self) -> list[str]:
        """The special tokens without a role or a name."""
        return list(self.spec.additional)

    @property
    def extra_special_tokens(self) -> list[str]:
        """The name of `additional_special_tokens` in transformers 5."""
        return list(self.spec.additional)

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once, those with a role first, then those with a name."""
        spec = self.spec
        return list(dict.fromkeys([*spec.roles.values(), *spec.named.values(), *spec.additional]))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`."""
        return [self.spec.id_of(token) for token in self.all_special_tokens]

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any]) -> int:
        """Assigns tokens to roles; those without an id get the next free one.

        Args:
            special_tokens_dict: Role to token, such as `{"cls_token": "[CLS]"}`; the tokens of
                `"additional_special_tokens"` replace the current ones, and so does a list of
                `"extra_special_tokens"`; names to tokens, such as `{"image_token": "<image>"}`,
                are added.

        Returns:
            Number of new tokens. The model's embeddings must grow by as many rows.

        Raises:
            TypeError: There is no such role.
        """
        lists = ("additional_special_tokens", "extra_special_tokens")
        check_names(special_tokens_dict, (*ROLES, *lists, *self.spec.named))
        before = len(self)
        self._set_spec(self.spec.replace(**special_tokens_dict))
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
    return property(lambda self: self.spec.role_id(name), doc=f"Id of `{name}`, or None.")


def _setting(name: str) -> property:
    """Returns the property of a setting."""

    def put(self: SpecialTokensMixin, value: Any) -> None:
        self._set_spec(self.spec.replace(**{name: value}))

    return property(
        lambda self: getattr(self.spec, name), put, doc=f"Setting `{name}`, see `spec`."
    )


for _name in {name for family in FAMILIES.values() for name in family.settings}:
    setattr(SpecialTokensMixin, _name, _setting(_name))
for _name in ROLES:
    setattr(SpecialTokensMixin, _name, _role(_name))
    setattr(SpecialTokensMixin, f"{_name}_id", _role_id(_name))
