"""The tokenizer as a KerasHub layer: text to ids and back inside the graph.

`B` is the number of texts, `C` of texts in a group, `T` of tokens, `V` the size of the vocabulary.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.tokenizers import bpe, files, pretokenize
from tfgpt2.tokenizers import spec as specs
from tfgpt2.tokenizers import text_inputs as border
from tfgpt2.tokenizers.sentencepiece import SentencepieceModel

SPEC_OPTIONS = (
    *specs.ROLES,
    *specs.SETTINGS,
    "additional_special_tokens",
    "unk_in_model",
    "fuse_unk",
)
KERAS_OPTIONS = ("name", "dtype", "trainable")


@keras.saving.register_keras_serializable(package="tfgpt2")
class ByteLevelBPETokenizer(keras_nlp.tokenizers.Tokenizer):
    """GPT-2's tokenizer as a KerasHub tokenizer: text in, token ids out.

    The ids are those of `tokenizers` and `tiktoken`, whatever the text. Invalid UTF-8 counts as
    U+FFFD, like `bytes.decode("utf-8", errors="replace")`. A byte that no token spells is dropped.

    Args:
        vocab: Token to id, in the characters of `vocab.json`.
        merges: Pairs of tokens, as tuples or as `"left right"`, the most urgent first.
        added_tokens: Tokens that are cut out of the text first, as `spec.AddedToken` or as mappings
            of its fields.
        special_tokens: `"split"` turns an added token inside a text into its id, as transformers
            does; `"text"` reads it like any other text (the safe choice for text from strangers).
        config_file: See `keras_nlp.tokenizers.Tokenizer`.
        name: Name of the layer.
        dtype: Type of the ids; only int32 is possible.
        trainable: Ignored by a layer without weights.
        **options: Roles (`bos_token`, `eos_token`, `unk_token`, `pad_token`, ...: text or None;
            `<|endoftext|>`, where the vocabulary has it, is the default of the first three) and
            settings (`add_prefix_space`, `add_bos_token`, `padding_side`, `truncation_side`,
            `model_max_length`, `unk_in_model`, `fuse_unk`), see `spec.Spec`.

    Raises:
        TypeError: There is no such option.
        ValueError: The vocabulary, the merges and the options do not fit together.

    Example:
        >>> tokenizer = ByteLevelBPETokenizer({"a": 0, "b": 1, "ab": 2}, ["a b"])
        >>> tokenizer(["abba", "b"]).to_list()
        [[2, 1, 0], [1]]
        >>> tokenizer.detokenize([[2, 1, 0]]).numpy().tolist()
        [b'abba']
    """

    own_options: tuple[str, ...] = ("special_tokens", *KERAS_OPTIONS)

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Iterable[str | tuple[str, str]],
        *,
        added_tokens: Iterable[specs.AddedToken | Mapping[str, Any]] = (),
        special_tokens: str = "split",
        config_file: str = "tokenizer.json",
        name: str | None = None,
        dtype: Any = "int32",
        trainable: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(config_file=config_file, name=name, dtype=dtype, trainable=trainable)
        border.check_names(options, SPEC_OPTIONS)
        border.check_choice("dtype", self.compute_dtype, ("int32",))
        border.check_choice("special_tokens", special_tokens, ("split", "text"))
        added = [
            token if isinstance(token, specs.AddedToken) else specs.AddedToken(**token)
            for token in added_tokens
        ]
        self.spec = specs.make(
            vocab,
            merges,
            added=added,
            roles={role: options.pop(role) for role in specs.ROLES if role in options},
            additional=options.pop("additional_special_tokens", None) or (),
            **options,
        )
        self.special_tokens_policy = special_tokens
        with tf.init_scope():  # The tables must outlive the graph that may be under construction.
            self._make_constants()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> ByteLevelBPETokenizer:
        """Loads a tokenizer from a directory, a bundled model or the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: Directory, bundled name or hub name.
            **options: Where to look (`revision`, `token`, `cache_dir`, `subfolder`,
                `local_files_only`, `force_download`), and arguments of the class, which win over
                the files.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: There is no such model, or it has no tokenizer.
            TypeError: There is no such option.
            ValueError: A file is damaged, or asks for something that GPT-2's tokenizer does not do.
        """
        own, others = _separate(cls, options, files.WHERE)
        return cls._from_spec(files.read(pretrained_model_name_or_path, **others), own)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **options: Any) -> ByteLevelBPETokenizer:
        """Takes over a tokenizer of `tokenizers`, of transformers (slow or fast), or of ours.

        Args:
            tokenizer: The tokenizer.
            **options: Arguments of the class, which win over the tokenizer.

        Returns:
            The tokenizer.

        Raises:
            TypeError: The object is no such tokenizer, or there is no such option.
            ValueError: The tokenizer does something that GPT-2's does not do.
        """
        own, others = _separate(cls, options)
        return cls._from_spec(files.from_tokenizer(tokenizer, **others), own)

    @classmethod
    def _from_spec(cls, spec: specs.Spec, options: Mapping[str, Any]) -> ByteLevelBPETokenizer:
        return cls(**_spec_config(spec), **options)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> list[str]:
        """Writes the files that `tokenizers`, transformers and `from_pretrained` load.

        Args:
            save_directory: Folder to write to, made if it is not there.

        Returns:
            The paths of the files written.
        """
        return [str(path) for path in files.write(self.spec, save_directory)]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal tokenizer, vocabulary included."""
        config = super().get_config() | _spec_config(self.spec)
        return config | {"special_tokens": self.special_tokens_policy}

    def tokenize(self, inputs: Any) -> tf.RaggedTensor | tf.Tensor:
        """Turns texts into token ids, without padding and without a first token.

        Args:
            inputs: Text, list of texts, string tensor or ragged string tensor, rank 2 at most.

        Returns:
            int32 ids: `[T]` for one text, ragged `[B, (T)]` for `[B]` texts, and so on.

        Raises:
            TypeError: The input is not text.
            ValueError: The input has more than 2 axes.

        Example:
            >>> tokenizer = ByteLevelBPETokenizer({"a": 0, "b": 1, "ab": 2}, ["a b"])
            >>> tokenizer.tokenize("bab").numpy().tolist()
            [1, 2]
        """
        text = border.as_text(inputs)
        if isinstance(text, tf.RaggedTensor):
            return text.with_flat_values(self.tokenize(text.flat_values))
        if text.shape.rank == 0:
            return self._encode(text[tf.newaxis]).flat_values  # [T]
        if text.shape.rank == 1:
            return self._encode(text)  # [B, (T)]
        ids = self._encode(tf.reshape(text, [-1]))  # [B * C, (T)]
        shape = tf.shape(text, tf.int64)
        return tf.RaggedTensor.from_uniform_row_length(ids, shape[1], shape[0])  # [B, C, (T)]

    def detokenize(self, inputs: Any, skip_special_tokens: bool = False) -> tf.Tensor:
        """Turns token ids into text.

        Args:
            inputs: Integer ids `[T]`, `[B, T]` or ragged `[B, (T)]`; an id that is no token gives
                nothing.
            skip_special_tokens: Whether special tokens give nothing.

        Returns:
            Valid UTF-8, `[]` or `[B]`; bytes that are not UTF-8 become U+FFFD, as with
            `bytes.decode("utf-8", errors="replace")`.

        Raises:
            TypeError: The ids are not integers.
            ValueError: The ids are a scalar.
        """
        return pretokenize.valid_utf8(self.detokenize_bytes(inputs, skip_special_tokens))

    def detokenize_bytes(self, inputs: Any, skip_special_tokens: bool = False) -> tf.Tensor:
        """Turns token ids into bytes, which need not be valid UTF-8.

        Args:
            inputs: Like `detokenize`.
            skip_special_tokens: Like `detokenize`.

        Returns:
            Bytes, `[]` or `[B]`.
        """
        ids = border.as_ids(inputs)
        if isinstance(ids, tf.RaggedTensor) and ids.ragged_rank == ids.shape.rank - 1:
            flat = self._without_special(ids.flat_values) if skip_special_tokens else None
            ids = ids if flat is None else ids.with_flat_values(flat)
        elif skip_special_tokens:
            ids = self._without_special(ids)
        return bpe.decode(ids, self._token_bytes)

    def call(self, inputs: Any, training: bool | None = None) -> tf.RaggedTensor | tf.Tensor:
        """Same as `tokenize`."""
        return self.tokenize(inputs)

    def vocabulary_size(self) -> int:
        """Returns the number of ids, holes and added tokens included."""
        return self.spec.size

    def get_vocabulary(self) -> list[str]:
        """Returns the token of each id, `""` for an id without one."""
        tokens = [""] * self.spec.size
        for token, token_id in self.get_vocab().items():
            tokens[token_id] = token
        return tokens

    def get_vocab(self) -> dict[str, int]:
        """Returns token to id, added tokens included."""
        return self.spec.vocab | {token.content: token.id for token in self.spec.added}

    def id_to_token(self, id: int) -> str:
        """Returns the token of an id.

        Args:
            id: An id of the vocabulary.

        Returns:
            The token, in the characters of `vocab.json`; `""` for an id without one.

        Raises:
            ValueError: The id is outside the vocabulary.
        """
        if not 0 <= id < self.spec.size:
            raise ValueError(
                explain(
                    f"An id is at least 0 and less than {self.spec.size}.",
                    fix="Pass an id that `tokenize` returned.",
                    id=id,
                )
            )
        return self.get_vocabulary()[id]

    def token_to_id(self, token: str) -> int:
        """Returns the id of a token.

        Args:
            token: A token, in the characters of `vocab.json` (`"Ġthe"`).

        Returns:
            Its id.

        Raises:
            ValueError: There is no such token.
        """
        token_id = self.spec.id_of(token)
        if token_id is None:
            raise ValueError(
                explain(
                    "The vocabulary has no such token.",
                    fix="A token is written as in `vocab.json`, with 'Ġ' for a space before it.",
                    token=token,
                )
            )
        return token_id

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id, `b""` for an id without a token."""
        return _token_bytes(self.spec)

    @property
    def vocab_size(self) -> int:
        """Number of ids, holes and added tokens included."""
        return self.spec.size

    @property
    def bos_token_id(self) -> int | None:
        """Id of the first token, or None."""
        return self.spec.id_of(self.spec.roles.get("bos_token"))

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a text, or None."""
        return self.spec.id_of(self.spec.roles.get("eos_token"))

    @property
    def unk_token_id(self) -> int | None:
        """Id of the token for unknown tokens, or None."""
        return self.spec.id_of(self.spec.roles.get("unk_token"))

    @property
    def pad_token_id(self) -> int:
        """Id that fills shorter rows: of the pad token, else of the eos token, else 0."""
        for role in ("pad_token", "eos_token"):
            token_id = self.spec.id_of(self.spec.roles.get(role))
            if token_id is not None:
                return token_id
        return 0

    @property
    def start_token_id(self) -> int | None:
        """KerasHub's name of `bos_token_id`."""
        return self.bos_token_id

    @property
    def end_token_id(self) -> int | None:
        """KerasHub's name of `eos_token_id`."""
        return self.eos_token_id

    def _make_constants(self) -> None:
        """Puts the vocabulary into tables that travel with a SavedModel."""
        spec = self.spec
        unk_id = self.unk_token_id if spec.unk_in_model else None
        program = bpe.build(spec.vocab, spec.merges, unk_id=unk_id, fuse_unk=spec.fuse_unk)
        cut = spec.added if self.special_tokens_policy == "split" else ()
        keys = program.words + [pretokenize.SPECIAL + token.content.encode() for token in cut]
        ids = np.append(program.word_ids, [token.id for token in cut]).astype(np.int32)
        special = {token.id for token in spec.added if token.special}
        self._patterns = _patterns(cut)
        self._missing = program.missing
        self._words = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant(keys, tf.string), tf.constant(ids)), -1
        )
        self._sentencepiece = SentencepieceModel(program.sentencepiece_model)
        self._piece_ids = tf.constant(program.piece_ids)  # [P]
        self._token_bytes = tf.constant([*_token_bytes(spec), b""], tf.string)  # [V + 1]
        self._is_special = tf.constant([i in special for i in range(spec.size + 1)])  # [V + 1]

    def _encode(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Runs the whole pipeline on texts `[B]`."""
        with tf.device("CPU:0"):  # Strings live there; the ids should not travel back and forth.
            text = pretokenize.valid_utf8(text)
            rows = pretokenize.Rows(text, tf.range(tf.size(text, tf.int64) + 1))
            for pattern in self._patterns:
                rows = pretokenize.split_off(rows, pattern)
            if self.spec.add_prefix_space:
                rows = rows._replace(values=pretokenize.prefix_space(rows.values))
            words = pretokenize.split_words(rows, has_special=bool(self._patterns))
            return bpe.encode(
                words,
                self._words.lookup,
                self._sentencepiece.tokenize,
                self._piece_ids,
                self._missing,
            )  # [B, (T)]

    def _without_special(self, ids: tf.Tensor) -> tf.Tensor:
        """Replaces special ids by an id that is no token."""
        size = tf.constant(self.spec.size, ids.dtype)
        place = tf.where((ids >= 0) & (ids < size), ids, tf.ones_like(ids) * size)
        return tf.where(tf.gather(self._is_special, place), tf.ones_like(ids) * size, ids)


def _token_bytes(spec: specs.Spec) -> list[bytes]:
    table = [b""] * spec.size
    for token, token_id in spec.vocab.items():
        table[token_id] = bpe.token_to_bytes(token)
    for token in spec.added:
        table[token.id] = token.content.encode()
    return table


def _patterns(tokens: Iterable[specs.AddedToken]) -> list[str]:
    """Returns one pattern per pass over the text that added tokens need."""
    kinds: dict[tuple[bool, bool, bool], list[str]] = {}
    for token in tokens:
        kinds.setdefault((token.normalized, token.lstrip, token.rstrip), []).append(token.content)
    for (first, some), (second, others) in itertools.combinations(kinds.items(), 2):
        for pair in itertools.product(some, others):
            if first[0] == second[0] and _overlap(*pair):
                # `tokenizers` looks for both in one pass, in which the leftmost and longest wins.
                raise ValueError(
                    explain(
                        "Added tokens whose texts overlap must strip white space alike.",
                        fix="Give them the same `lstrip` and `rstrip`.",
                        tokens=pair,
                    )
                )
    return [
        pretokenize.special_pattern(contents, lstrip, rstrip)
        for (_, lstrip, rstrip), contents in sorted(kinds.items())
    ]


def _overlap(one: str, other: str) -> bool:
    """Returns whether a text can hold both in such a way that they share a character."""
    if one in other or other in one:
        return True
    sizes = range(1, min(len(one), len(other)))
    return any(one.endswith(other[:n]) or other.endswith(one[:n]) for n in sizes)


def _spec_config(spec: specs.Spec) -> dict[str, Any]:
    """Returns a specification as arguments of the layer, ready for JSON."""
    config: dict[str, Any] = dict.fromkeys(("bos_token", "eos_token", "unk_token")) | spec.roles
    config |= {name: getattr(spec, name) for name in (*specs.SETTINGS, "unk_in_model", "fuse_unk")}
    return config | {
        "vocab": spec.vocab,
        "merges": [" ".join(pair) for pair in spec.merges],
        "added_tokens": [vars(token) for token in spec.added],
        "additional_special_tokens": list(spec.additional),
    }


def _separate(
    cls: type[ByteLevelBPETokenizer], options: Mapping[str, Any], where: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separates a layer's own options from those that `files` and `spec` understand."""
    border.check_names(options, (*cls.own_options, *specs.REPLACEABLE, *where))
    own = cls.own_options
    return (
        {name: value for name, value in options.items() if name in own},
        {name: value for name, value in options.items() if name not in own},
    )
