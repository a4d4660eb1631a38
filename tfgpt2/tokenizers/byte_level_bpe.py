"""The family of GPT-2's own tokenizer: byte-level BPE."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tokenizers

from tfgpt2.errors import value_error
from tfgpt2.tokenizers import bpe, pretokenize
from tfgpt2.tokenizers.added_tokens import AddedToken
from tfgpt2.tokenizers.base import SETTINGS, TokenizerSpec
from tfgpt2.tokenizers.files import read_json, read_text
from tfgpt2.tokenizers.graph import TokenizerGraph
from tfgpt2.tokenizers.layer import Tokenizer
from tfgpt2.tokenizers.segments import SPECIAL, Rows
from tfgpt2.tokenizers.sentencepiece import SentencepieceModel

# Options of the `BPE` model of `tokenizers` that GPT-2's tokenizer does not use.
_UNSUPPORTED = (
    "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteLevelBPESpec(TokenizerSpec):
    """A byte-level BPE tokenizer as data; tokens are in the characters of `vocab.json`.

    Attributes:
        merges: Pairs of tokens, the most urgent first.
        add_prefix_space: Whether text is encoded as if a space stood before it.
        unk_in_model: Whether bytes without a token become `unk_token` instead of being dropped.
        fuse_unk: Whether neighbouring bytes without a token become one `unk_token`.

    Example:
        >>> spec = ByteLevelBPESpec.create({"a": 0, "b": 1, "ab": 2}, ["a b"],
        ...                                roles={"pad_token": "[PAD]"})
        >>> spec.merges, spec.id_of("[PAD]"), spec.size
        ((('a', 'b'),), 3, 4)
        >>> spec.replace(eos_token="b", padding_side="left").roles
        {'eos_token': 'b', 'pad_token': '[PAD]'}
        >>> spec.add(["<x>", "<y>"], special=False).id_of("<y>")
        5
        >>> spec.backend().encode("abb").ids
        [2, 1]
    """

    tokenizer_class = "GPT2Tokenizer"
    settings = ("add_prefix_space", *SETTINGS)

    merges: tuple[tuple[str, str], ...]
    add_prefix_space: bool = False
    unk_in_model: bool = False
    fuse_unk: bool = False

    @classmethod
    def create(
        cls, vocab: Mapping[str, int], merges: Iterable[str | tuple[str, str]], **fields: Any
    ) -> ByteLevelBPESpec:
        """Returns a checked specification, see `TokenizerSpec.create`.

        Args:
            vocab: Token to id.
            merges: Pairs, as tuples or as `"left right"`.
            **fields: See `TokenizerSpec.create`.

        Raises:
            TypeError: The vocabulary or the merges have another type.
            ValueError: A merge is not a pair of tokens, or another value is not allowed.
        """
        return super().create(vocab, merges=tuple(_pair(merge) for merge in merges), **fields)

    def check(self) -> None:
        """Checks that the fields have allowed values and fit together."""
        bpe.check_merges(self.vocab, self.merges)
        super().check()
        if self.unk_in_model:
            self.check_role("unk_token", "unk_in_model")

    def to_options(self) -> dict[str, Any]:
        """Returns the arguments of `from_options` that make an equal specification."""
        return super().to_options() | {"merges": [" ".join(pair) for pair in self.merges]}

    @classmethod
    def matches(cls, data: Mapping[str, Any]) -> bool:
        """Returns whether the contents of a `tokenizer.json` are of this family."""
        return (data.get("model") or {}).get("type", "BPE") == "BPE"

    @classmethod
    def fields_from_json(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the family's fields from the contents of `tokenizer.json`."""
        model = data.get("model") or {}
        pre, decoder = data.get("pre_tokenizer") or {}, data.get("decoder") or {}
        unsupported = {f"model.{key}": model[key] for key in _UNSUPPORTED if model.get(key)}
        if data.get("normalizer") is not None:
            unsupported["normalizer"] = data["normalizer"]
        if pre.get("type") != "ByteLevel" or not pre.get("use_regex", True):
            unsupported["pre_tokenizer"] = data.get("pre_tokenizer")
        if decoder.get("type", "ByteLevel") != "ByteLevel":
            unsupported["decoder"] = decoder
        for part, value in unsupported.items():
            raise value_error(
                f"`{part}` asks for something that GPT-2's byte-level BPE does not do.",
                fix="Load this tokenizer with the `tokenizers` library instead.",
                **{part: value},
            )
        roles = _roles_of_template(data.get("post_processor"))
        if model.get("unk_token") is not None:
            roles["unk_token"] = model["unk_token"]
        return {
            "vocab": model.get("vocab"),
            "merges": model.get("merges") or [],
            "add_prefix_space": bool(pre.get("add_prefix_space")),
            "add_bos_token": "bos_token" in roles,
            "unk_in_model": model.get("unk_token") is not None,
            "fuse_unk": bool(model.get("fuse_unk")),
            "roles": roles,
        }

    @classmethod
    def fields_from_files(cls, find: Callable[[str], Path]) -> dict[str, Any]:
        """Returns the vocabulary and the merges of `vocab.json` and `merges.txt`."""
        vocab = read_json(find("vocab.json"))
        lines = read_text(find("merges.txt")).split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
        return {"vocab": vocab, "merges": merges}

    @classmethod
    def fields_from_python(cls, tokenizer: Any) -> dict[str, Any] | None:
        """Returns the vocabulary and the merges of a slow GPT-2 tokenizer of transformers."""
        if not (hasattr(tokenizer, "bpe_ranks") and hasattr(tokenizer, "encoder")):
            return None
        merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
        return {"vocab": dict(tokenizer.encoder), "merges": merges}

    def vocabulary_files(self) -> dict[str, str]:
        """Returns `vocab.json` and `merges.txt`: name to contents."""
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in self.merges)]
        return {
            "vocab.json": json.dumps(self.vocab, ensure_ascii=False) + "\n",
            "merges.txt": "\n".join(lines) + "\n",
        }

    def token_to_bytes(self, token: str) -> bytes:
        """Returns the bytes that a token stands for."""
        return bpe.token_to_bytes(token)

    def build_graph(self, split: Sequence[AddedToken]) -> ByteLevelBPEGraph:
        """Returns the operations in the graph."""
        return ByteLevelBPEGraph(self, split)

    def pipeline(self) -> tokenizers.Tokenizer:
        """Returns the tokenizer of the `tokenizers` library, without its added tokens."""
        unk = self.roles.get("unk_token") if self.unk_in_model else None
        model = tokenizers.models.BPE(
            self.vocab, list(self.merges), unk_token=unk, fuse_unk=self.fuse_unk
        )
        result = tokenizers.Tokenizer(model)
        result.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
            add_prefix_space=self.add_prefix_space
        )
        result.decoder = tokenizers.decoders.ByteLevel()
        result.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
        return result


class ByteLevelBPEGraph(TokenizerGraph):
    """The operations of byte-level BPE in the graph.

    Args:
        spec: The tokenizer.
        split: The added tokens that are split off from texts.
    """

    def __init__(self, spec: ByteLevelBPESpec, split: Sequence[AddedToken]) -> None:
        super().__init__(spec.token_bytes, spec.special_ids, split)
        unk_id = spec.role_id("unk_token") if spec.unk_in_model else None
        tables = bpe.build_tables(spec.vocab, spec.merges, unk_id=unk_id, fuse_unk=spec.fuse_unk)
        keys = tables.words + [SPECIAL + token.content.encode() for token in split]
        ids = np.append(tables.word_ids, [token.id for token in split]).astype(np.int32)
        self._words = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant(keys, tf.string), tf.constant(ids)), -1
        )
        self._sentencepiece = SentencepieceModel(tables.sentencepiece_model)
        self._piece_ids = tf.constant(tables.piece_ids)  # [P]
        self._missing = tables.missing
        self._add_prefix_space = spec.add_prefix_space

    def encode_segments(self, text: Rows) -> tf.RaggedTensor:
        """Returns the ids `[B, (T)]` of texts whose added tokens were split off."""
        if self._add_prefix_space:
            text = text._replace(values=pretokenize.prefix_space(text.values))
        return bpe.encode(
            pretokenize.split_words(text, has_special=bool(self.patterns)),
            self._words.lookup,
            self._sentencepiece.tokenize,
            self._piece_ids,
            self._missing,
        )


@keras.saving.register_keras_serializable(package="tfgpt2")
class ByteLevelBPETokenizer(Tokenizer):
    """Byte-level BPE as a KerasHub tokenizer: text in, ragged token ids out.

    The ids are those of `tokenizers` and `tiktoken`, whatever the text. Invalid UTF-8 counts as
    U+FFFD, like `bytes.decode("utf-8", errors="replace")`. A byte that no token spells is dropped.

    Args:
        vocab: Token to id, in the characters of `vocab.json`.
        merges: Pairs of tokens, as tuples or as `"left right"`, the most urgent first.
        **options: See `Tokenizer`; the settings of this family are `add_prefix_space`,
            `add_bos_token`, `padding_side`, `truncation_side`, `model_max_length`, `unk_in_model`
            and `fuse_unk`, see `ByteLevelBPESpec`.

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

    families = {"byte_level_bpe": ByteLevelBPESpec}

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Iterable[str | tuple[str, str]],
        **options: Any,
    ) -> None:
        super().__init__(vocab, merges, **options)


def _pair(merge: str | tuple[str, str]) -> tuple[str, str]:
    parts = tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
    if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise value_error(
            "A merge is two tokens with one space between them.",
            fix="Check `merges.txt`; it may be cut off or belong to another kind of tokenizer.",
            merge=merge,
        )
    return parts


def _roles_of_template(processor: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns `{"bos_token": ...}` when a post-processor puts one token before the text."""
    processor = processor or {}
    kind = processor.get("type", "ByteLevel")
    if kind == "Sequence":
        parts = [_roles_of_template(part) for part in processor["processors"]]
        return {role: token for part in parts for role, token in part.items()}
    if kind == "ByteLevel":
        return {}
    template = processor.get("single") if kind == "TemplateProcessing" else None
    if template and [*template[-1]] == ["Sequence"] and len(template) <= 2:
        specials = [part["SpecialToken"]["id"] for part in template[:-1] if "SpecialToken" in part]
        return {"bos_token": specials[0]} if specials else {}
    raise value_error(
        "`post_processor` may put `bos_token` before the text and do nothing else.",
        fix="Remove it from `tokenizer.json`, or load it with the `tokenizers` library.",
        post_processor=processor,
    )
