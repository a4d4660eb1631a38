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
from tfgpt2.tokenizers import bpe, normal_form, pretokenize
from tfgpt2.tokenizers.added_tokens import AddedToken
from tfgpt2.tokenizers.base import SETTINGS, TokenizerSpec
from tfgpt2.tokenizers.character_bpe import CharacterBPESpec
from tfgpt2.tokenizers.graph import TokenizerGraph
from tfgpt2.tokenizers.json_files import read_json, read_text
from tfgpt2.tokenizers.json_values import get_value, list_stages
from tfgpt2.tokenizers.layer import Tokenizer
from tfgpt2.tokenizers.segments import SPECIAL, Rows, is_special, keep_special
from tfgpt2.tokenizers.sentencepiece import SentencepieceModel
from tfgpt2.tokenizers.spec_checks import check_pairs
from tfgpt2.tokenizers.template import Affixes, Template, read_template, unsupported
from tfgpt2.validation import check_choice

# Options of the `BPE` model of `tokenizers` that GPT-2's tokenizer does not use.
_UNSUPPORTED = (
    "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteLevelBPESpec(TokenizerSpec):
    """A byte-level BPE tokenizer as data; tokens are in the characters of `vocab.json`.

    Attributes:
        merges: Pairs of tokens, the most urgent first.
        normal_form: Unicode's normal form that texts get first, such as `"NFC"`, or None.
        add_prefix_space: Whether text is encoded as if a space stood before it.
        add_bos_token: Whether each text starts with `bos_token`, in place of `template`.
        unk_in_model: Whether bytes without a token become `unk_token` instead of being dropped.
        fuse_unk: Whether neighbouring bytes without a token become one `unk_token`.
        trim_offsets: Whether the offsets of a token, on the host, leave out the white space at its
            ends.
        trim_first_space: Whether that goes for the first space of a text too.

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
    # The same tokenizer under another name, and the names of any tokenizer.
    same_classes = (
        "CodeGenTokenizer",
        "PreTrainedTokenizer",
        "TokenizersBackend",
    )
    known_files = (("vocab.json", "merges.txt"),)
    settings = ("add_prefix_space", "add_bos_token", *SETTINGS)

    merges: tuple[tuple[str, str], ...]
    normal_form: str | None = None
    add_prefix_space: bool = False
    add_bos_token: bool = False
    unk_in_model: bool = False
    fuse_unk: bool = False
    trim_offsets: bool = False
    trim_first_space: bool = False

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
        return super().create(vocab, merges=check_pairs(merges), **fields)

    def check(self) -> None:
        """Checks that the fields have allowed values and fit together."""
        bpe.check_merges(self.vocab, self.merges)
        super().check()
        _check_space(self.vocab)
        check_choice("normal_form", self.normal_form, (None, *normal_form.FORMS))
        if self.add_bos_token:
            self.check_role("bos_token", "add_bos_token")
        if self.unk_in_model:
            self.check_role("unk_token", "unk_in_model")
            if self.roles["unk_token"] not in self.vocab:
                raise value_error(
                    "`unk_token` of the model must be a token of its vocabulary.",
                    fix="Check `model.unk_token` in `tokenizer.json`.",
                    unk_token=self.roles["unk_token"],
                )

    def to_options(self) -> dict[str, Any]:
        """Returns the arguments of `from_options` that make an equal specification."""
        return super().to_options() | {"merges": [" ".join(pair) for pair in self.merges]}

    @property
    def text_template(self) -> Template:
        """The special tokens around texts."""
        if not self.add_bos_token:
            return self.template
        bos = Affixes((self.roles["bos_token"],))
        return Template(*bos, pair=(bos, bos))

    @classmethod
    def matches(cls, data: Mapping[str, Any]) -> bool:
        """Returns whether the contents of a `tokenizer.json` are of this family."""
        is_bpe = (data.get("model") or {}).get("type", "BPE") == "BPE"
        return is_bpe and not CharacterBPESpec.matches(data)

    @classmethod
    def fields_from_json(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the family's fields from the contents of `tokenizer.json`."""
        model = get_value(data, "model", dict)
        pre = list_stages(data, "pre_tokenizer", "pretokenizers")
        decoder = list_stages(data, "decoder", "decoders")
        unsupported = {f"model.{key}": model[key] for key in _UNSUPPORTED if model.get(key)}
        form, others = normal_form.split_form(list_stages(data, "normalizer", "normalizers"))
        if others:
            unsupported["normalizer"] = data["normalizer"]
        if [step["type"] for step in pre] != ["ByteLevel"] or not get_value(
            pre[0], "pre_tokenizer.use_regex", bool, True
        ):
            unsupported["pre_tokenizer"] = data.get("pre_tokenizer")
        if [step["type"] for step in decoder] not in ([], ["ByteLevel"]):
            unsupported["decoder"] = data["decoder"]
        for part, value in unsupported.items():
            raise value_error(
                f"`{part}` asks for something that GPT-2's byte-level BPE does not do.",
                fix="Load this tokenizer with the `tokenizers` library instead, and pass its ids to"
                " the model.",
                **{part: value},
            )
        unk_token = get_value(model, "model.unk_token", str, "")
        vocab = get_value(model, "model.vocab", dict)
        post = _read_post_processor(data, vocab)
        return {
            "vocab": vocab,
            "merges": get_value(model, "model.merges", list, []),
            "normal_form": form,
            "add_prefix_space": get_value(pre[0], "pre_tokenizer.add_prefix_space", bool, False),
            "unk_in_model": bool(unk_token),
            "fuse_unk": get_value(model, "model.fuse_unk", bool, False),
            **post,
            "roles": post["roles"] | ({"unk_token": unk_token} if unk_token else {}),
        }

    @classmethod
    def fields_from_files(
        cls, find: Callable[[str], Path], config: Mapping[str, Any]
    ) -> dict[str, Any]:
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
        if self.normal_form:
            result.normalizer = normal_form.host_normalizer(self.normal_form)
        result.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
            add_prefix_space=self.add_prefix_space
        )
        result.decoder = tokenizers.decoders.ByteLevel()
        result.post_processor = tokenizers.processors.ByteLevel(
            trim_offsets=self.trim_offsets, add_prefix_space=not self.trim_first_space
        )
        return result


class ByteLevelBPEGraph(TokenizerGraph):
    """The operations of byte-level BPE in the graph.

    Args:
        spec: The tokenizer.
        split: The added tokens that are split off from texts.
    """

    def __init__(self, spec: ByteLevelBPESpec, split: Sequence[AddedToken]) -> None:
        if spec.normal_form:
            host = normal_form.host_normalizer(spec.normal_form)
            split = [
                dataclasses.replace(token, content=host.normalize_str(token.content))
                if token.normalized
                else token
                for token in split
            ]
        super().__init__(spec.token_bytes, spec.special_ids, split)
        self._form = normal_form.NormalForm(spec.normal_form) if spec.normal_form else None
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
        self._splits_parts = not any(pretokenize.breaks_at_spaces(t.content) for t in split)

    def normalize(self, text: Rows) -> Rows:
        """Returns texts in their normal form."""
        if self._form is None:
            return text
        plain = tf.where(is_special(text.values), "", text.values)
        return keep_special(text, self._form(plain))

    def encode_segments(self, text: Rows) -> tf.RaggedTensor:
        """Returns the ids `[B, (T)]` of texts whose added tokens were split off."""
        if self._add_prefix_space:
            text = text._replace(values=pretokenize.prefix_space(text.values))
        if not self._splits_parts:
            return self._encode_words(text)
        parts = pretokenize.distinct_parts(text)
        distinct = Rows(parts.distinct, tf.range(tf.size(parts.distinct, tf.int64) + 1))
        ids = tf.gather(self._encode_words(distinct), parts.indices)  # [P, (tokens)]
        return tf.RaggedTensor.from_row_splits(
            ids.values, tf.gather(ids.row_splits, parts.row_splits), validate=False
        )  # [B, (T)]

    def _encode_words(self, text: Rows) -> tf.RaggedTensor:
        return bpe.encode(
            pretokenize.split_words(text, has_special=bool(self.passes)),
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
            `add_bos_token`, `padding_side`, `truncation_side`, `model_max_length`,
            `split_special_tokens`, `normal_form`, `unk_in_model` and `fuse_unk`, see
            `ByteLevelBPESpec`.

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


def _check_space(vocab: Mapping[str, int]) -> None:
    """Raises `ValueError` when a vocabulary marks spaces, but not as byte-level BPE does."""
    space = bpe.BYTE_TO_CHARACTER[ord(" ")]
    marked = next((t for t in vocab if t.startswith("▁") or t.endswith("</w>")), None)
    if marked is not None and not any(space in token for token in vocab):
        raise value_error(
            f"The vocabulary marks spaces differently from byte-level BPE, which writes {space!r}:"
            " it belongs to another kind of tokenizer.",
            fix="Tokenize with the library that it was made for (`tokenizers`, `sentencepiece`),"
            " and pass its ids to the model.",
            token=marked,
        )


def _read_post_processor(data: Mapping[str, Any], vocab: Mapping[str, int]) -> dict[str, Any]:
    """Returns the fields that the post-processor of `tokenizer.json` decides.

    It may put tokens around the text, and trim offsets.
    """
    steps = list_stages(data, "post_processor", "processors")
    ids = {token["content"]: token["id"] for token in data.get("added_tokens") or []} | vocab
    template = read_template(data, ids)
    trims = [
        step
        for step in steps
        if step["type"] == "ByteLevel"
        and get_value(step, "post_processor.trim_offsets", bool, True)
    ]
    if len(trims) > 1:
        raise unsupported(data["post_processor"])
    starts = len(template.prefix) == 1 and not template.suffix
    return {
        "add_bos_token": starts,
        "template": Template() if starts else template,
        "roles": {"bos_token": template.prefix[0]} if starts else {},
        "trim_offsets": bool(trims),
        "trim_first_space": any(
            not get_value(step, "post_processor.add_prefix_space", bool, True) for step in trims
        ),
    }
