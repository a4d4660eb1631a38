"""Texts through the `tokenizers` library, with the settings of a tokenizer or of one call."""

from __future__ import annotations

from typing import Any

import tokenizers

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.rows import Part


class EncodingMethods:
    """The tokens of texts, without special tokens around them."""

    spec: TokenizerSpec
    backend_tokenizer: tokenizers.Tokenizer

    def _encode_batch(
        self, texts: list[Any], words: bool, **settings: bool | None
    ) -> list[Part | None]:
        """Returns the tokens of each text; None for None.

        Args:
            texts: The texts, or lists of words.
            words: Whether they are lists of words.
            **settings: Settings of this call; None is the tokenizer's own.

        Raises:
            TypeError: The tokenizer has no such setting.
            ValueError: The texts cannot be tokenized like this.
        """
        spec, backend = self._with_settings(settings)
        if words and not getattr(spec, "add_prefix_space", True):
            raise value_error(
                "Words are tokenized with a space before each, and `add_prefix_space` is off.",
                fix="Load the tokenizer with add_prefix_space=True.",
                is_split_into_words=True,
            )
        encoded = iter(_run(spec, backend, [t for t in texts if t is not None], words))
        return [None if text is None else Part.from_encoding(next(encoded)) for text in texts]

    def _with_settings(
        self, settings: dict[str, bool | None]
    ) -> tuple[TokenizerSpec, tokenizers.Tokenizer]:
        """The tokenizer with other settings; those of earlier calls are kept."""
        changes = {
            name: value
            for name, value in settings.items()
            if value is not None and value != getattr(self.spec, name, None)
        }
        if not changes:
            return self.spec, self.backend_tokenizer
        known, key = self.__dict__.setdefault("_changed", {}), tuple(changes.items())
        if key not in known:
            spec = self.spec.replace(**changes)
            known[key] = spec, spec.backend()
        return known[key]


def _run(
    spec: TokenizerSpec, backend: tokenizers.Tokenizer, texts: list[Any], words: bool
) -> list[tokenizers.Encoding]:
    """Returns what `tokenizers` makes of texts.

    Raises:
        ValueError: It cannot tokenize them.
    """
    backend.encode_special_tokens = spec.split_special_tokens  # which no copy of it keeps
    try:
        if words:
            return backend.encode_batch(texts, is_pretokenized=True, add_special_tokens=False)
        return spec.encode_on_host(backend, texts)
    except BaseException as error:  # its `PanicException` is no `Exception`
        if type(error).__name__ != "PanicException":
            raise
        raise value_error(
            "`tokenizers` fails on a text, where white space that is an added token with"
            " `lstrip` follows an added token with `rstrip`.",
            fix="Give the white space token `rstrip` too, or use `TFGPT2Tokenizer`.",
            texts=texts,
        ) from error
