"""Tokenizers on the host, with the interface of transformers, on the `tokenizers` library.

They give the same ids as the layer in the graph, from Python strings, and do not need torch.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from tfgpt2.errors import type_error, value_error
from tfgpt2.tokenizers import batch_encoding, files
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.batch_encoding import BatchEncoding, Truncation
from tfgpt2.tokenizers.registry import FAMILIES
from tfgpt2.tokenizers.special_tokens import SpecialTokensMixin
from tfgpt2.tokenizers.template import Template
from tfgpt2.validation import check_names


class GPT2Tokenizer(SpecialTokensMixin):
    """Tokenizer on the host, named as in transformers.

    Args:
        vocab_file: Path of `vocab.json`.
        merges_file: Path of `merges.txt`.
        tokenizer_file: Path of `tokenizer.json`, in place of the two.
        tokenizer_object: A `tokenizers.Tokenizer`, in place of files.
        **options: Roles (`pad_token`, ...), settings (`add_prefix_space`, `padding_side`, ...) and
            `additional_special_tokens`; a token without an id gets the next free one.

    Raises:
        TypeError: There is no such option, or the files are missing.
        ValueError: A file is damaged, or asks for something that no family does.

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
            spec = files.from_tokenizer(tokenizer_object, FAMILIES, **options)
        elif tokenizer_file is not None:
            spec = files.read_paths({"tokenizer.json": tokenizer_file}, FAMILIES, **options)
        elif vocab_file is not None and merges_file is not None:
            paths = {"vocab.json": vocab_file, "merges.txt": merges_file}
            spec = files.read_paths(paths, FAMILIES, **options)
        else:
            raise type_error(
                "A tokenizer needs `vocab_file` and `merges_file`, or `tokenizer_file`.",
                fix="Use `from_pretrained(directory)` to find the files.",
                vocab_file=vocab_file,
                merges_file=merges_file,
            )
        self._set_spec(spec)

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
            ValueError: A file is damaged, or asks for something that no family does.
        """
        return cls._from_spec(files.read(pretrained_model_name_or_path, FAMILIES, **options))

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **options: Any) -> GPT2Tokenizer:
        """Converts a tokenizer of `tokenizers`, of transformers, or a layer of ours."""
        return cls._from_spec(files.from_tokenizer(tokenizer, FAMILIES, **options))

    @classmethod
    def _from_spec(cls, spec: TokenizerSpec) -> GPT2Tokenizer:
        result = cls.__new__(cls)
        result._set_spec(spec)
        return result

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Writes the files that `tokenizers`, transformers and `from_pretrained` load."""
        return tuple(str(path) for path in files.write(self.spec, save_directory))

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Writes the vocabulary files alone, and returns their paths."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        paths = files.write_vocabulary(self.spec, Path(save_directory), prefix)
        return tuple(map(str, paths))

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
        """Tokenizes a text, or a list of texts.

        Args:
            text: A text, or a list of texts.
            text_pair: Text to follow each text.
            add_special_tokens: Whether to add the special tokens around texts, such as
                `bos_token` with `add_bos_token`.
            padding: False, True or `"longest"`, or `"max_length"`.
            truncation: True, `"longest_first"`, `"only_first"` or `"only_second"` truncate to
                `max_length`; False does not; None does if `max_length` is given without padding.
            max_length: Most tokens of a row; by default `model_max_length`.
            pad_to_multiple_of: Rounds the padded length up to a multiple.
            padding_side: `"left"` or `"right"`; by default the tokenizer's own.
            return_tensors: `"tf"`, `"np"`, or None for lists.
            return_attention_mask: Whether to return `attention_mask`.
            return_token_type_ids: Whether to return `token_type_ids`: 0, and 1 in `text_pair`.
            return_offsets_mapping: Whether to return each token's start and end in its text.
            return_special_tokens_mask: Whether to return a mask that is 1 at those special tokens.
            return_length: Whether to return `length`.
            **unknown: None allowed; named in the error.

        Returns:
            A dictionary with attribute access. A single text gives lists, or tensors with one row.

        Raises:
            TypeError: The text is not text, or there is no such argument.
            ValueError: An option's value is not allowed, or rows differ in length.
        """
        check_names(unknown, self.__call__.__kwdefaults__)
        single, firsts, seconds = batch_encoding.check_texts(text, text_pair)
        limit = Truncation.from_options(self.spec, padding, truncation, max_length)
        template = self.spec.text_template if add_special_tokens else Template()
        encoded = [self._encode_batch(column) for column in (firsts, seconds)]
        join = functools.partial(batch_encoding.join_pair, id_of=self.spec.id_of)
        rows = [join(a, b, template, limit) for a, b in zip(*encoded, strict=True)]
        wanted = {
            "input_ids": True,
            "token_type_ids": return_token_type_ids,
            "attention_mask": return_attention_mask,
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "length": return_length,
        }
        columns = {key: [row[key] for row in rows] for key, want in wanted.items() if want}
        columns = self._pad(columns, padding, limit.max_length, pad_to_multiple_of, padding_side)
        if single and return_tensors is None:
            columns = {key: column[0] for key, column in columns.items()}
        return batch_encoding.to_tensors(columns, return_tensors)

    def encode(self, text: str, text_pair: str | None = None, **options: Any) -> Any:
        """Returns the ids of a text; the options are those of a call."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(self, text: str) -> list[str]:
        """Returns the tokens of a text, as in the vocabulary."""
        _, texts, _ = batch_encoding.check_texts(text, None)
        return self._run_backend(texts)[0].tokens

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pads rows that were tokenized one by one.

        Args:
            encoded_inputs: Results of calls, or one dictionary of columns.
            padding: True or `"longest"`, or `"max_length"`.
            max_length: Length for `"max_length"`; by default `model_max_length`.
            pad_to_multiple_of: Rounds the padded length up to a multiple.
            padding_side: `"left"` or `"right"`; by default the tokenizer's own.
            return_tensors: `"tf"`, `"np"`, or None for lists.

        Returns:
            The rows, all of one length, with an `attention_mask`.

        Raises:
            ValueError: There is no pad token, or an option's value is not allowed.
        """
        columns = batch_encoding.collate(encoded_inputs)
        limit = Truncation.from_options(self.spec, padding, False, max_length)
        columns = self._pad(columns, padding, limit.max_length, pad_to_multiple_of, padding_side)
        return batch_encoding.to_tensors(columns, return_tensors)

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Decodes ids to text; ids without a token give nothing.

        Args:
            token_ids: An id, a list of ids, or a tensor `[T]`.
            skip_special_tokens: Whether special tokens give nothing.
            clean_up_tokenization_spaces: Whether to join `" ."`, `" n't"` and the like to the word
                before.

        Returns:
            The text; bytes that are not UTF-8 become U+FFFD.
        """
        skip = self.spec.special_ids if skip_special_tokens else ()
        size = self.spec.size
        ids = [i for i in batch_encoding.to_ids(token_ids) if i not in skip and 0 <= i < size]
        text = self.spec.text_of(ids)
        return batch_encoding.clean_up_spaces(text) if clean_up_tokenization_spaces else text

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Decodes several rows of ids; the options are those of `decode`."""
        return [self.decode(row, **options) for row in sequences]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Returns the id of a token, or of each token; `unk_token_id` for unknown ones."""
        if isinstance(tokens, str):
            token_id = self.spec.id_of(tokens)
            return self.unk_token_id if token_id is None else token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Returns the token of an id, or of each id; None for an id without one."""
        tokens = {token_id: token for token, token_id in self.get_vocab().items()}
        if np.ndim(ids) == 0:
            return tokens.get(int(ids))
        skip = self.spec.special_ids if skip_special_tokens else ()
        return [tokens.get(i) for i in batch_encoding.to_ids(ids) if i not in skip]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Returns the text of tokens, as they are in the vocabulary."""
        added = {token.content: self.spec.added_to_bytes(token) for token in self.spec.added}
        return self.spec.join(added.get(t) or self.spec.token_to_bytes(t) for t in tokens)

    def _encode_batch(self, texts: list[str | None]) -> list[tuple[list[int], list[Any]] | None]:
        """Returns ids and offsets of each text; None for None."""
        encoded = self._run_backend([text or "" for text in texts])
        return [
            None if text is None else (item.ids, item.offsets)
            for text, item in zip(texts, encoded, strict=True)
        ]

    def _run_backend(self, texts: list[str]) -> list[tokenizers.Encoding]:
        """Returns what `tokenizers` makes of texts, without special tokens.

        Raises:
            ValueError: It cannot tokenize them.
        """
        try:
            return self.spec.encode_on_host(self.backend_tokenizer, texts)
        except BaseException as error:  # its `PanicException` is no `Exception`
            if type(error).__name__ != "PanicException":
                raise
            raise value_error(
                "`tokenizers` fails on a text, where white space that is an added token with"
                " `lstrip` follows an added token with `rstrip`.",
                fix="Give the white space token `rstrip` too, or use `TFGPT2Tokenizer`.",
                texts=texts,
            ) from error

    def _pad(
        self,
        columns: dict[str, list[Any]],
        padding: bool | str,
        max_length: int | None,
        multiple: int | None,
        side: str | None,
    ) -> dict[str, list[Any]]:
        """Returns the columns padded, see `batch_encoding.pad`."""
        if padding in (False, "do_not_pad"):
            return columns
        if self.pad_token_id is None:
            raise value_error(
                "Padding needs a `pad_token`, and the tokenizer has none.",
                fix="Set `tokenizer.pad_token = tokenizer.eos_token`, or add one.",
                pad_token=None,
            )
        length = max_length if padding == "max_length" else None
        side = side or self.spec.padding_side
        return batch_encoding.pad(columns, length, multiple, self.pad_token_id, side)


class GPT2TokenizerFast(GPT2Tokenizer):
    """The same tokenizer under the name of transformers' fast one."""

    is_fast = True
