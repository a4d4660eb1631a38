"""A tokenizer of any family as a KerasHub layer: text to ids and back inside the graph.

`B` is the number of texts, `C` of texts in a group, `T` of tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import keras_nlp
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.arguments import as_ids, as_text
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.segments import valid_utf8
from tfgpt2.tokenizers.template import surround
from tfgpt2.validation import check_choice, check_names


class Tokenizer(keras_nlp.tokenizers.Tokenizer):
    """What the layers of all families share; a subclass names the families that it takes.

    Args:
        *vocabulary: The positional arguments of the family's `create`, such as the vocabulary.
        family: Name of the family; by default the first one.
        special_tokens: `"split"` turns an added token inside a text into its id, as transformers
            does; `"text"` encodes it like any other text (the safe choice for untrusted text).
        config_file: See `keras_nlp.tokenizers.Tokenizer`.
        name: Name of the layer.
        dtype: Type of the ids; only int32 is possible.
        trainable: Ignored by a layer without weights.
        **options: `added_tokens` (as `AddedToken` or mappings of its fields), roles (`bos_token`,
            `eos_token`, `unk_token`, `pad_token`, ...: text or None; `<|endoftext|>`, where the
            vocabulary has it, is the default of the first three), `additional_special_tokens`,
            `template` (`{"prefix": ["[CLS]"], "suffix": ["[SEP]"]}`: tokens before and after each
            text) and the family's settings.

    Raises:
        TypeError: There is no such option.
        ValueError: The vocabulary and the options do not fit together.
    """

    families: ClassVar[Mapping[str, type[TokenizerSpec]]]
    own_options: ClassVar[tuple[str, ...]] = ("special_tokens", "name", "dtype", "trainable")

    def __init__(
        self,
        *vocabulary: Any,
        family: str | None = None,
        special_tokens: str = "split",
        config_file: str = "tokenizer.json",
        name: str | None = None,
        dtype: Any = "int32",
        trainable: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(config_file=config_file, name=name, dtype=dtype, trainable=trainable)
        check_choice("dtype", self.dtype_policy.compute_dtype, ("int32",))
        check_choice("special_tokens", special_tokens, ("split", "text"))
        family = next(iter(self.families)) if family is None else family
        check_choice("family", family, tuple(self.families))
        spec_class = self.families[family]
        check_names(options, (*spec_class.options(), *self.own_options, "config_file", "family"))
        self.spec = spec_class.from_options(*vocabulary, **options)
        self.special_tokens_policy = special_tokens
        split = self.spec.split_off if special_tokens == "split" else ()
        with tf.init_scope():  # The tables must outlive the graph that may be under construction.
            self._graph = self.spec.build_graph(split)

    @property
    def compute_dtype(self) -> str:
        """Type of the inputs, by which Keras' `Sequential` makes its first tensor."""
        return "string"

    @property
    def variable_dtype(self) -> str:
        """The same, so that Keras casts nothing; there are no variables."""
        return "string"

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> Tokenizer:
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
            ValueError: A file is damaged, or asks for something that no family does.
        """
        own, others = cls._separate(options, files.HUB_OPTIONS)
        spec = files.read(pretrained_model_name_or_path, cls.families, **others)
        return cls._from_spec(spec, own)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **options: Any) -> Tokenizer:
        """Converts a tokenizer of `tokenizers`, of transformers (slow or fast), or of ours.

        Args:
            tokenizer: The tokenizer.
            **options: Arguments of the class, which win over the tokenizer.

        Returns:
            The tokenizer.

        Raises:
            TypeError: The object is no such tokenizer, or there is no such option.
            ValueError: The tokenizer does something that no family does.
        """
        own, others = cls._separate(options)
        return cls._from_spec(files.from_tokenizer(tokenizer, cls.families, **others), own)

    @classmethod
    def _from_spec(cls, spec: TokenizerSpec, options: Mapping[str, Any]) -> Tokenizer:
        return cls(**spec.to_options(), **cls._family_option(spec), **options)

    @classmethod
    def _family_option(cls, spec: TokenizerSpec) -> dict[str, str]:
        """Returns the argument `family`; nothing for the first family."""
        names = {family: name for name, family in cls.families.items()}
        family = names.get(type(spec), type(spec).__name__)
        check_choice("family", family, tuple(cls.families))
        return {} if family == next(iter(names.values())) else {"family": family}

    @classmethod
    def _separate(
        cls, options: Mapping[str, Any], where: Iterable[str] = ()
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Separates the layer's own options from those of `files` and of the families."""
        of_families = [n for f in cls.families.values() for n in f.changeable_options()]
        check_names(options, (*cls.own_options, *of_families, *where))
        own = {name: value for name, value in options.items() if name in cls.own_options}
        return own, {name: value for name, value in options.items() if name not in own}

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
        config = super().get_config() | self.spec.to_options() | self._family_option(self.spec)
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
        """
        text = as_text(inputs)
        if isinstance(text, tf.RaggedTensor):
            return text.with_flat_values(self.tokenize(text.flat_values))
        if text.shape.rank == 0:
            return self._graph.encode(text[tf.newaxis]).flat_values  # [T]
        if text.shape.rank == 1:
            return self._graph.encode(text)  # [B, (T)]
        ids = self._graph.encode(tf.reshape(text, [-1]))  # [B * C, (T)]
        shape = tf.shape(text, tf.int64)
        return tf.RaggedTensor.from_uniform_row_length(ids, shape[1], shape[0])  # [B, C, (T)]

    def tokenize_prompts(self, inputs: Any) -> tf.RaggedTensor:
        """Turns prompts into token ids: what stands before a text, and the text, which goes on.

        Args:
            inputs: List of texts, or string tensor `[B]`.

        Returns:
            int32 ragged `[B, (T)]`.
        """
        return surround(self._graph.encode(as_text(inputs)), self.spec.prefix_ids)

    def tokenize_rows(
        self, inputs: Any, max_length: int | None = None, truncation_side: str = "right"
    ) -> tf.RaggedTensor:
        """Turns texts into rows of a model's input: with the special tokens around each text.

        Args:
            inputs: List of texts, or string tensor `[B]`.
            max_length: Most tokens of a row, at least those special tokens; None is no limit.
            truncation_side: Side on which a longer text is cut.

        Returns:
            int32 ragged `[B, (T)]`.
        """
        first, last = self.spec.prefix_ids, self.spec.suffix_ids
        ids = self._graph.encode(as_text(inputs))  # [B, (T)]
        if max_length is not None:
            room = max(0, max_length - len(first) - len(last))
            ids = ids[:, -room:] if truncation_side == "left" and room else ids[:, :room]
        return surround(ids, first, last)

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
        ids = self._ids_to_decode(inputs, skip_special_tokens)
        return valid_utf8(self._graph.decode_text(ids, self.spec.strips_first_space))

    def detokenize_bytes(self, inputs: Any, skip_special_tokens: bool = False) -> tf.Tensor:
        """Turns token ids into the bytes that they write after other text.

        They need not be valid UTF-8, and of tokenizers whose words begin with a space they begin
        with one that `detokenize` leaves out.

        Args:
            inputs: Like `detokenize`.
            skip_special_tokens: Like `detokenize`.

        Returns:
            Bytes, `[]` or `[B]`.
        """
        return self._graph.decode(self._ids_to_decode(inputs, skip_special_tokens))

    def _ids_to_decode(self, inputs: Any, skip_special_tokens: bool) -> tf.RaggedTensor | tf.Tensor:
        """Returns ids to decode, special ones replaced where they are skipped."""
        ids = as_ids(inputs)
        if skip_special_tokens and isinstance(ids, tf.RaggedTensor):
            return ids.with_flat_values(self._graph.without_special(ids.flat_values))
        return self._graph.without_special(ids) if skip_special_tokens else ids

    def call(self, inputs: Any, training: bool | None = None) -> tf.RaggedTensor | tf.Tensor:
        """Same as `tokenize`."""
        return self.tokenize(inputs)

    def vocabulary_size(self) -> int:
        """Returns the number of ids, holes and added tokens included."""
        return self.spec.size

    def get_vocabulary(self) -> list[str]:
        """Returns the token of each id, `""` for an id without one."""
        tokens = [""] * self.spec.size
        for token, token_id in self.spec.tokens.items():
            tokens[token_id] = token
        return tokens

    def get_vocab(self) -> dict[str, int]:
        """Returns token to id, added tokens included."""
        return self.spec.tokens

    def id_to_token(self, id: int) -> str:
        """Returns the token of an id.

        Args:
            id: An id of the vocabulary.

        Returns:
            The token, as in the vocabulary; `""` for an id without one.

        Raises:
            ValueError: The id is outside the vocabulary.
        """
        if not 0 <= id < self.spec.size:
            raise value_error(
                f"An id is at least 0 and less than {self.spec.size}.",
                fix="Pass an id that `tokenize` returned.",
                id=id,
            )
        return self.get_vocabulary()[id]

    def token_to_id(self, token: str) -> int:
        """Returns the id of a token.

        Args:
            token: A token, as in the vocabulary (`"Ġthe"` in GPT-2's).

        Returns:
            Its id.

        Raises:
            ValueError: There is no such token.
        """
        token_id = self.spec.id_of(token)
        if token_id is None:
            raise value_error(
                "The vocabulary has no such token.",
                fix="`get_vocabulary()` lists the tokens; in GPT-2's, 'Ġ' is a space.",
                token=token,
            )
        return token_id

    @property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id, `b""` for an id without a token."""
        return self.spec.token_bytes

    @property
    def vocab_size(self) -> int:
        """Number of ids, holes and added tokens included."""
        return self.spec.size

    @property
    def bos_token_id(self) -> int | None:
        """Id of the first token, or None."""
        return self.spec.role_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a text, or None: `eos_token`, else the one after each text."""
        return self.spec.end_id

    @property
    def unk_token_id(self) -> int | None:
        """Id of the token for unknown tokens, or None."""
        return self.spec.role_id("unk_token")

    @property
    def pad_token_id(self) -> int:
        """Id that pads shorter rows: of the pad token, else of the eos token, else 0."""
        ids = (self.spec.role_id("pad_token"), self.spec.end_id)
        return next((token_id for token_id in ids if token_id is not None), 0)

    @property
    def start_token_id(self) -> int | None:
        """KerasHub's name of `bos_token_id`."""
        return self.bos_token_id

    @property
    def end_token_id(self) -> int | None:
        """KerasHub's name of `eos_token_id`."""
        return self.eos_token_id
