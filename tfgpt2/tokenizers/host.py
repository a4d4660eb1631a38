"""Tokenizers on the host, with the interface of transformers, on the `tokenizers` library.

They give the same ids as the layer in the graph, from Python strings, and do not need torch.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from tfgpt2.errors import type_error
from tfgpt2.hub import check_no_upload
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.added_tokens import token_text
from tfgpt2.tokenizers.base import ROLES, TokenizerSpec
from tfgpt2.tokenizers.batch_encoding import BatchEncoding, to_tensors
from tfgpt2.tokenizers.chat_methods import ChatMethods
from tfgpt2.tokenizers.decoding_methods import DecodingMethods
from tfgpt2.tokenizers.encoding_methods import EncodingMethods
from tfgpt2.tokenizers.padding_methods import PaddingMethods
from tfgpt2.tokenizers.registry import FAMILIES
from tfgpt2.tokenizers.retraining import retrain
from tfgpt2.tokenizers.rows import Truncation, join_pair, read_texts
from tfgpt2.tokenizers.sequence_methods import SequenceMethods
from tfgpt2.tokenizers.special_tokens import SpecialTokensMixin
from tfgpt2.validation import check_names

# Options of transformers that change nothing for GPT-2, there as here.
_WITHOUT_EFFECT = ("do_lower_case", "from_slow", "verbose")
# Options that are attributes of a tokenizer and no part of its specification.
_OWN_OPTIONS = ("clean_up_tokenization_spaces", "name_or_path")
# Arguments of a call that a call for its targets does not take over.
_NOT_PASSED_ON = ("self", "text", "text_pair", "text_target", "text_pair_target", "unknown")


class GPT2Tokenizer(
    EncodingMethods,
    SequenceMethods,
    DecodingMethods,
    PaddingMethods,
    ChatMethods,
    SpecialTokensMixin,
):
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
    vocab_files_names = {
        "vocab_file": "vocab.json",
        "merges_file": "merges.txt",
        "tokenizer_file": "tokenizer.json",
    }
    is_fast = False
    init_inputs = ()
    name_or_path = ""
    pad_token_type_id = 0

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        merges_file: str | os.PathLike[str] | None = None,
        *,
        tokenizer_file: str | os.PathLike[str] | None = None,
        tokenizer_object: tokenizers.Tokenizer | None = None,
        **options: Any,
    ) -> None:
        self._set_own(options)
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
                `local_files_only`, `force_download`), options of the class, `tokenizer_file` in
                place of the model's own, and `use_fast`, as in transformers, which says nothing but
                the class.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: There is no such model, or it has no tokenizer.
            TypeError: There is no such option.
            ValueError: A file is damaged, or asks for something that no family does.
        """
        fast = options.pop("use_fast", None)
        kind = cls if fast is None else GPT2TokenizerFast if fast else GPT2Tokenizer
        names = (*_OWN_OPTIONS, *_WITHOUT_EFFECT)
        own = {name: options.pop(name) for name in names if name in options}
        result = kind._from_spec(files.read(pretrained_model_name_or_path, FAMILIES, **options))
        result._set_own(own)
        result.name_or_path = str(pretrained_model_name_or_path)
        return result

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **options: Any) -> GPT2Tokenizer:
        """Converts a tokenizer of `tokenizers`, of transformers, or a layer of ours."""
        return cls._from_spec(files.from_tokenizer(tokenizer, FAMILIES, **options))

    @classmethod
    def _from_spec(cls, spec: TokenizerSpec) -> GPT2Tokenizer:
        result = cls.__new__(cls)
        result._set_spec(spec)
        return result

    def _set_own(self, options: dict[str, Any]) -> None:
        """Takes the options that are no part of the specification out of a dict."""
        for name in _WITHOUT_EFFECT:
            options.pop(name, None)
        for name in _OWN_OPTIONS:
            if options.get(name) is not None:
                setattr(self, name, options[name])
            options.pop(name, None)

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Roles and settings, as options that make an equal tokenizer from the same vocabulary."""
        settings = {name: getattr(self, name) for name in self.spec.settings}
        return self.spec.roles | settings | {"name_or_path": self.name_or_path}

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        save_jinja_files: bool = True,
    ) -> tuple[str, ...]:
        """Writes the files that `tokenizers`, transformers and `from_pretrained` load.

        Args:
            save_directory: The directory, created if necessary.
            legacy_format: As in transformers. Changes nothing: `tokenizer.json` and the vocabulary
                files are always both written.
            filename_prefix: What the names of the vocabulary files begin with, and a hyphen.
            push_to_hub: False, as uploading is a step of its own.
            save_jinja_files: False writes a chat template into `tokenizer_config.json`.

        Returns:
            The paths of the files.

        Raises:
            ValueError: `push_to_hub` is set.
        """
        check_no_upload(push_to_hub)
        paths = files.write(self.spec, save_directory, save_jinja_files=save_jinja_files)
        written = tuple(map(str, paths))
        if filename_prefix:
            written += self.save_vocabulary(save_directory, filename_prefix)
        return written

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Writes the vocabulary files alone, and returns their paths."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        paths = files.write_vocabulary(self.spec, Path(save_directory), prefix)
        return tuple(map(str, paths))

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        *,
        add_prefix_space: bool | None = None,
        split_special_tokens: bool | None = None,
        **unknown: Any,
    ) -> BatchEncoding:
        """Tokenizes a text, or a list of texts.

        Args:
            text: A text, a list of texts, or a list of pairs of texts.
            text_pair: Text to follow each text.
            text_target: Texts whose ids become `labels`; without `text`, they are what is returned.
            text_pair_target: Text to follow each target.
            add_special_tokens: Whether to add the special tokens around texts, such as
                `bos_token` with `add_bos_token`.
            padding: False, True or `"longest"`, or `"max_length"`.
            truncation: True, `"longest_first"`, `"only_first"` or `"only_second"` truncate to
                `max_length`; False does not; None does if `max_length` is given without padding.
            max_length: Most tokens of a row; by default `model_max_length`.
            stride: Tokens that each row of overflowing tokens repeats from the one before.
            is_split_into_words: Whether texts are lists of words.
            pad_to_multiple_of: Rounds the padded length up to a multiple.
            padding_side: `"left"` or `"right"`; by default the tokenizer's own.
            return_tensors: `"tf"`, `"np"`, or None for lists.
            return_token_type_ids: Whether to return `token_type_ids`: 0, and 1 in `text_pair`.
            return_attention_mask: Whether to return `attention_mask`; None is True.
            return_overflowing_tokens: Whether tokens that were cut off follow as further rows; then
                `overflow_to_sample_mapping` holds the number of each row's text.
            return_special_tokens_mask: Whether to return a mask that is 1 at special tokens.
            return_offsets_mapping: Whether to return each token's start and end in its text.
            return_length: Whether to return `length`.
            verbose: As in transformers; changes nothing.
            add_prefix_space: Whether a space is put before a text; None is the tokenizer's setting.
            split_special_tokens: Whether special tokens in a text are text like any other, as
                befits what users write; None is the tokenizer's setting.
            **unknown: None allowed; named in the error.

        Returns:
            A dictionary with attribute access, see `BatchEncoding`. A single text gives lists, or
            tensors with one row.

        Raises:
            TypeError: The text is not text, or there is no such argument.
            ValueError: An option's value is not allowed, or rows differ in length.
        """
        options = {n: v for n, v in locals().items() if n not in _NOT_PASSED_ON}
        check_names(unknown, inspect.signature(self.__call__).parameters)
        if text_target is not None:
            target = self(text_target, text_pair_target, **options)
            if text is None:
                return target
            source = self(text, text_pair, **options)
            source["labels"] = target["input_ids"]
            return source
        single, firsts, seconds = read_texts(text, text_pair, is_split_into_words)
        limit = Truncation.from_options(self.spec, padding, truncation, max_length, stride)
        settings = {
            "add_prefix_space": add_prefix_space,
            "split_special_tokens": split_special_tokens,
        }
        encoded = [
            self._encode_batch(column, is_split_into_words, **settings)
            for column in (firsts, seconds)
        ]
        texts = [
            join_pair(a, b, self._around(b is not None, add_special_tokens), limit)
            for a, b in zip(*encoded, strict=True)
        ]
        if not return_overflowing_tokens:
            texts = [rows[:1] for rows in texts]
        rows = [row for rows in texts for row in rows]
        rows = self._padded_rows(rows, padding, limit.max_length, pad_to_multiple_of, padding_side)
        wanted = {
            "input_ids": (True, [row.ids for row in rows]),
            "token_type_ids": (return_token_type_ids, [row.type_ids for row in rows]),
            "attention_mask": (return_attention_mask in (None, True),
                               [row.attention_mask for row in rows]),
            "special_tokens_mask": (return_special_tokens_mask,
                                    [row.special_tokens_mask for row in rows]),
            "offset_mapping": (return_offsets_mapping, [row.offsets for row in rows]),
            "length": (return_length, list(map(len, rows))),
            "overflow_to_sample_mapping": (return_overflowing_tokens,
                                           [i for i, rows in enumerate(texts) for _ in rows]),
        }  # fmt: skip
        columns = {key: column for key, (want, column) in wanted.items() if want}
        if single and return_tensors is None and not return_overflowing_tokens:
            columns = {key: column[0] for key, column in columns.items()}
        return BatchEncoding(to_tensors(columns, return_tensors), rows)

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """Tokenizes one text, or one pair of texts as a tuple; the options are those of a call."""
        words = options.get("is_split_into_words", False)
        if text_pair is None and isinstance(text, tuple) and len(text) == 2 and not words:
            text, text_pair = text
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> BatchEncoding:
        """Tokenizes a list of texts or of pairs of texts; the options are those of a call."""
        return self(batch_text_or_text_pairs, **options)

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Returns the ids of a text; the options are those of a call."""
        return self.encode_plus(text, text_pair, **options)["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """Returns the tokens of a text, as in the vocabulary; the options are those of a call."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[Any],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[str] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **options: Any,
    ) -> GPT2Tokenizer:
        """Returns a tokenizer with the same rules and settings, and a vocabulary of other texts.

        Args:
            text_iterator: Texts, or batches of texts.
            vocab_size: Tokens of the vocabulary, special ones included.
            length: As in transformers; changes nothing.
            new_special_tokens: More special tokens.
            special_tokens_map: New names of special tokens, by the old ones.
            **options: Options of the trainer of `tokenizers`, such as `min_frequency`.

        Raises:
            ValueError: Vocabularies of this kind are not trained here.
        """
        renamed = special_tokens_map or {}
        special = [token.content for token in self.spec.added if token.special]
        special = [renamed.get(token, token) for token in special]
        special += [token_text(token) for token in new_special_tokens or ()]
        trained = retrain(
            self.spec, text_iterator, vocab_size, list(dict.fromkeys(special)), **options
        )
        roles = {role: renamed.get(token, token) for role, token in self.spec.roles.items()}
        additional = [renamed.get(token, token) for token in self.spec.additional]
        additional += [token_text(token) for token in new_special_tokens or ()]
        settings = {name: getattr(self.spec, name) for name in self.spec.settings}
        return type(self)(
            tokenizer_object=trained,
            **dict.fromkeys(ROLES) | roles,
            **settings,
            **({"additional_special_tokens": additional} if additional else {}),
        )


class GPT2TokenizerFast(GPT2Tokenizer):
    """The same tokenizer under the name of transformers' fast one."""

    is_fast = True
