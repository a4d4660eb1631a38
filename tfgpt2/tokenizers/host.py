"""The tokenizer on the host, with the interface of transformers, on the `tokenizers` library.

It gives the ids of the layer in the graph; use it where text is Python's: data preparation,
notebooks, inspection. torch is not needed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from tfgpt2.errors import explain
from tfgpt2.tokenizers import batches, bpe, files
from tfgpt2.tokenizers import spec as specs
from tfgpt2.tokenizers import text_inputs as inputs
from tfgpt2.tokenizers.batches import BatchEncoding


def _role(name: str) -> property:
    """Returns the attribute of a role: its token, or None; settable to a token that has an id."""

    def get(self: GPT2Tokenizer) -> str | None:
        return self.spec.roles.get(name)

    def put(self: GPT2Tokenizer, token: Any) -> None:
        if token is not None and self.spec.id_of(specs.content(token)) is None:
            raise ValueError(
                explain(
                    f"`{name}` must be a token of the vocabulary.",
                    fix=f"Add it first: `tokenizer.add_special_tokens({{{name!r}: ...}})`.",
                    **{name: token},
                )
            )
        self._set(specs.replace(self.spec, **{name: token}))

    return property(get, put, doc=f"The `{name}`, or None.")


def _role_id(name: str) -> property:
    return property(
        lambda self: self.spec.id_of(self.spec.roles.get(name)), doc=f"Id of `{name}`, or None."
    )


class GPT2Tokenizer:
    """GPT-2's tokenizer on the host, named as in transformers.

    Args:
        vocab_file: Path of `vocab.json`.
        merges_file: Path of `merges.txt`.
        tokenizer_file: Path of `tokenizer.json`, in place of the two.
        tokenizer_object: A `tokenizers.Tokenizer`, in place of files.
        **options: Roles (`pad_token`, ...), settings (`add_prefix_space`, `padding_side`, ...) and
            `additional_special_tokens`; a token without an id gets the next free one.

    Raises:
        TypeError: There is no such option, or no vocabulary was given.
        ValueError: A file is damaged, or asks for something that GPT-2's tokenizer does not do.

    Example:
        >>> import tokenizers
        >>> bpe = tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}, [("a", "b")])
        >>> backend = tokenizers.Tokenizer(bpe)
        >>> backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        >>> tokenizer = GPT2Tokenizer(tokenizer_object=backend)
        >>> tokenizer("abba")
        {'input_ids': [2, 1, 0], 'attention_mask': [1, 1, 1]}
        >>> tokenizer.decode([2, 1, 0])
        'abba'
    """

    model_input_names = ("input_ids", "attention_mask")
    is_fast = False

    bos_token, bos_token_id = _role("bos_token"), _role_id("bos_token")
    eos_token, eos_token_id = _role("eos_token"), _role_id("eos_token")
    unk_token, unk_token_id = _role("unk_token"), _role_id("unk_token")
    pad_token, pad_token_id = _role("pad_token"), _role_id("pad_token")
    sep_token, sep_token_id = _role("sep_token"), _role_id("sep_token")
    cls_token, cls_token_id = _role("cls_token"), _role_id("cls_token")
    mask_token, mask_token_id = _role("mask_token"), _role_id("mask_token")

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        merges_file: str | os.PathLike[str] | None = None,
        *,
        tokenizer_file: str | os.PathLike[str] | None = None,
        tokenizer_object: tokenizers.Tokenizer | None = None,
        **options: Any,
    ) -> None:
        if tokenizer_object is not None:
            spec = files.from_tokenizer(tokenizer_object, **options)
        else:
            spec = files.read_paths(vocab_file, merges_file, tokenizer_file, **options)
        self._set(spec)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> GPT2Tokenizer:
        """Loads a tokenizer from a directory, a bundled model or the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: Directory, bundled name or hub name.
            **options: Where to look (`revision`, `token`, `cache_dir`, `subfolder`,
                `local_files_only`, `force_download`), and options of the class.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: There is no such model, or it has no tokenizer.
            TypeError: There is no such option.
            ValueError: A file is damaged, or asks for something that GPT-2's tokenizer does not do.
        """
        return cls._from_spec(files.read(pretrained_model_name_or_path, **options))

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **options: Any) -> GPT2Tokenizer:
        """Takes over a tokenizer of `tokenizers`, of transformers, or a layer of ours."""
        return cls._from_spec(files.from_tokenizer(tokenizer, **options))

    @classmethod
    def _from_spec(cls, spec: specs.Spec) -> GPT2Tokenizer:
        result = cls.__new__(cls)
        result._set(spec)
        return result

    def _set(self, spec: specs.Spec) -> None:
        """Takes over a specification; everything else of the object follows from it."""
        self.spec = spec
        self.backend_tokenizer = specs.backend(spec)
        self.__dict__.pop("_token_bytes", None)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Writes the files that `tokenizers`, transformers and `from_pretrained` load."""
        return tuple(str(path) for path in files.write(self.spec, save_directory))

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, str]:
        """Writes `vocab.json` and `merges.txt` alone, and returns their paths."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        paths = files.write_vocabulary(self.spec, Path(save_directory), prefix)
        return str(paths[0]), str(paths[1])

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
        return self.spec.vocab | {token.content: token.id for token in self.spec.added}

    def get_added_vocab(self) -> dict[str, int]:
        """Returns token to id of the added tokens."""
        return {token.content: token.id for token in self.spec.added}

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """Role to token, and `additional_special_tokens` if there are any."""
        extra = list(self.spec.additional)
        return self.spec.roles | ({"additional_special_tokens": extra} if extra else {})

    @property
    def additional_special_tokens(self) -> list[str]:
        """The special tokens without a role."""
        return list(self.spec.additional)

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once, those with a role first."""
        return list(dict.fromkeys([*self.spec.roles.values(), *self.spec.additional]))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`."""
        return [self.spec.id_of(token) for token in self.all_special_tokens]

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any]) -> int:
        """Gives tokens to roles; those without an id get the next free one.

        Args:
            special_tokens_dict: Role to token, such as `{"cls_token": "[CLS]"}`; the tokens of
                `"additional_special_tokens"` replace the present ones.

        Returns:
            How many tokens are new. The model's embeddings must grow by as many rows.

        Raises:
            TypeError: There is no such role.
        """
        inputs.check_names(special_tokens_dict, [*specs.ROLES, "additional_special_tokens"])
        before = len(self)
        self._set(specs.replace(self.spec, **special_tokens_dict))
        return len(self) - before

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Adds tokens that are cut out of a text before anything else looks at it.

        Args:
            new_tokens: A token or a list of tokens, as text or as `tokenizers.AddedToken`.
            special_tokens: Whether decoding can skip them.

        Returns:
            How many tokens are new.
        """
        single = isinstance(new_tokens, (str, tokenizers.AddedToken))
        before = len(self)
        tokens = [new_tokens] if single else new_tokens
        self._set(specs.add(self.spec, tokens, special=special_tokens))
        return len(self) - before

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        *,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
        return_token_type_ids: bool = False,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        **unknown: Any,
    ) -> BatchEncoding:
        """Turns a text, or a list of texts, into what a model takes.

        Args:
            text: A text, or a list of texts.
            text_pair: Text to follow each text.
            add_special_tokens: Whether `add_bos_token` acts.
            padding: False, True or `"longest"`, or `"max_length"`.
            truncation: True, `"longest_first"`, `"only_first"` or `"only_second"` cut at
                `max_length`; False does not; None does if `max_length` is given without padding.
            max_length: Most tokens of a row; by default the model's.
            pad_to_multiple_of: Rounds the padded length up.
            padding_side: `"left"` or `"right"`, in place of the tokenizer's own.
            return_tensors: `"tf"`, `"np"`, or None for lists.
            return_attention_mask: Whether to return `attention_mask`.
            return_token_type_ids: Whether to return `token_type_ids`: 0, and 1 in `text_pair`.
            return_offsets_mapping: Whether to return each token's start and end in its text.
            return_special_tokens_mask: Whether to return 1 where `bos_token` was put.
            return_length: Whether to return `length`.
            **unknown: None allowed; named in the error.

        Returns:
            A dictionary with attribute access. One text gives lists, or tensors with one row.

        Raises:
            TypeError: The text is not text, or there is no such argument.
            ValueError: An option's value is not allowed, or rows differ in length.
        """
        inputs.check_names(unknown, self.__call__.__kwdefaults__)
        single, firsts, seconds = batches.texts(text, text_pair)
        cut = batches.Cut.plan(self.spec, padding, truncation, max_length)
        bos = self.bos_token_id if add_special_tokens and self.spec.add_bos_token else None
        encoded = [self._encode_batch(column) for column in (firsts, seconds)]
        rows = [batches.join(a, b, bos, cut) for a, b in zip(*encoded, strict=True)]
        wanted = {
            "input_ids": True,
            "token_type_ids": return_token_type_ids,
            "attention_mask": return_attention_mask,
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "length": return_length,
        }
        columns = {key: [row[key] for row in rows] for key, want in wanted.items() if want}
        if padding not in (False, "do_not_pad"):
            columns = self._padder(padding_side)(columns, padding, cut.length, pad_to_multiple_of)
        if single and return_tensors is None:
            columns = {key: column[0] for key, column in columns.items()}
        return batches.tensors(columns, return_tensors)

    def encode(self, text: str, text_pair: str | None = None, **options: Any) -> Any:
        """Returns the ids of a text; the arguments are those of a call."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(self, text: str) -> list[str]:
        """Returns the tokens of a text, in the characters of `vocab.json`."""
        _, texts, _ = batches.texts(text, None)
        return self.backend_tokenizer.encode(texts[0], add_special_tokens=False).tokens

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pads rows that were encoded one by one.

        Args:
            encoded_inputs: Results of calls, or one dictionary of lists of rows.
            padding: True or `"longest"`, or `"max_length"`.
            max_length: Length for `"max_length"`; by default the model's.
            pad_to_multiple_of: Rounds the padded length up.
            padding_side: `"left"` or `"right"`, in place of the tokenizer's own.
            return_tensors: `"tf"`, `"np"`, or None for lists.

        Returns:
            The rows, all of one length, with an `attention_mask`.

        Raises:
            ValueError: There is no pad token, or an option's value is not allowed.
        """
        columns = batches.columns(encoded_inputs)
        cut = batches.Cut.plan(self.spec, padding, False, max_length)
        if padding not in (False, "do_not_pad"):
            columns = self._padder(padding_side)(columns, padding, cut.length, pad_to_multiple_of)
        return batches.tensors(columns, return_tensors)

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Returns the text of ids; ids without a token give nothing.

        Args:
            token_ids: An id, a list of ids, or a tensor `[T]`.
            skip_special_tokens: Whether special tokens give nothing.
            clean_up_tokenization_spaces: Whether to join `" ."`, `" n't"` and the like to the word
                before.

        Returns:
            The text; bytes that are not UTF-8 become U+FFFD.
        """
        skip = self._special_ids() if skip_special_tokens else ()
        table = self._token_bytes
        parts = [table.get(i, b"") for i in batches.ids(token_ids) if i not in skip]
        text = b"".join(parts).decode("utf-8", errors="replace")
        return batches.clean_up(text) if clean_up_tokenization_spaces else text

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Returns the texts of rows of ids; the options are those of `decode`."""
        return [self.decode(row, **options) for row in sequences]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Returns the id of a token, or of each token; `unk_token_id` for one that has none."""
        if isinstance(tokens, str):
            token_id = self.spec.id_of(tokens)
            return self.unk_token_id if token_id is None else token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Returns the token of an id, or of each id; None for an id that has none."""
        tokens = {token_id: token for token, token_id in self.get_vocab().items()}
        if np.ndim(ids) == 0:
            return tokens.get(int(ids))
        skip = self._special_ids() if skip_special_tokens else ()
        return [tokens.get(i) for i in batches.ids(ids) if i not in skip]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Returns the text of tokens in the characters of `vocab.json`."""
        added = {token.content for token in self.spec.added}
        parts = [t.encode() if t in added else bpe.token_to_bytes(t) for t in tokens]
        return b"".join(parts).decode("utf-8", errors="replace")

    def _encode_batch(self, texts: list[str | None]) -> list[tuple[list[int], list[Any]]]:
        """Returns ids and offsets of each text; none for None."""
        encoded = self.backend_tokenizer.encode_batch(
            [text or "" for text in texts], add_special_tokens=False
        )
        return [(item.ids, item.offsets) for item in encoded]

    def _padder(self, side: str | None) -> Any:
        if self.pad_token_id is None:
            raise ValueError(
                explain(
                    "Padding needs a `pad_token`, and the tokenizer has none.",
                    fix="Set `tokenizer.pad_token = tokenizer.eos_token`, or add one.",
                    pad_token=None,
                )
            )
        return functools.partial(
            batches.pad, pad_token_id=self.pad_token_id, side=side or self.spec.padding_side
        )

    def _special_ids(self) -> set[int]:
        return {token.id for token in self.spec.added if token.special}

    @functools.cached_property
    def _token_bytes(self) -> dict[int, bytes]:
        table = {i: bpe.token_to_bytes(token) for token, i in self.spec.vocab.items()}
        return table | {token.id: token.content.encode() for token in self.spec.added}


def _setting(name: str) -> property:
    def put(self: GPT2Tokenizer, value: Any) -> None:
        self._set(specs.replace(self.spec, **{name: value}))

    return property(lambda self: getattr(self.spec, name), put, doc=f"See `spec.Spec.{name}`.")


for _name in specs.SETTINGS:
    setattr(GPT2Tokenizer, _name, _setting(_name))


class GPT2TokenizerFast(GPT2Tokenizer):
    """The same tokenizer under the name of transformers' fast one; both stand on `tokenizers`."""

    is_fast = True
