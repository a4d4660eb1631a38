"""The family of BPE over characters: with `▁` for spaces (metaspace), or over whole texts.

KoGPT2 is of the former kind. Chemistry (SMILES) is of the latter, and so are tables of characters,
which are BPE without merges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tokenizers

from tfgpt2.errors import value_error
from tfgpt2.tokenizers import bpe, normal_form
from tfgpt2.tokenizers.added_tokens import AddedToken
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.code_point_map import CodePointMap, make_tables
from tfgpt2.tokenizers.graph import TokenizerGraph
from tfgpt2.tokenizers.json_values import get_value, list_stages
from tfgpt2.tokenizers.segments import (
    CUT,
    SPECIAL,
    Rows,
    is_special,
    keep_special,
    scatter_misses,
    split_at_cuts,
)
from tfgpt2.tokenizers.sentencepiece import SentencepieceModel
from tfgpt2.tokenizers.spec_checks import check_pairs
from tfgpt2.tokenizers.template import read_template
from tfgpt2.tokenizers.unicode_classes import WHITE_SPACE, character_class
from tfgpt2.validation import check_choice

METASPACE = "▁"
_SPACES = f"[{character_class(WHITE_SPACE)}]+"
_SCHEMES = ("always", "first", "never")
_UNSUPPORTED = (
    "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharacterBPESpec(TokenizerSpec):
    """A BPE tokenizer over characters as data.

    Attributes:
        merges: Pairs of tokens, the most urgent first.
        metaspace: `"always"`, `"first"` or `"never"`: spaces become `▁`, which is put before every
            part of a text between added tokens, before the first one only, or before none. None
            leaves spaces as they are, and a text is one word.
        split_words: With `metaspace`, whether each `▁` begins a new word.
        normal_form: Unicode's normal form that texts get first, such as `"NFKC"`, or None.
        strip_left: Whether texts lose the white space at their beginning.
        strip_right: Whether texts lose the white space at their end.
        unk_in_model: Whether characters without a token become `unk_token` instead of being
            dropped.
        fuse_unk: Whether neighbouring characters without a token become one `unk_token`.
        decodes_spaces: Whether `▁` is a space in decoded text.
        joins_with_spaces: Whether decoded tokens have spaces between them.

    Example:
        >>> spec = CharacterBPESpec.create({"C": 0, "l": 1, "Cl": 2}, ["C l"])
        >>> spec.backend().encode("CClC").ids
        [0, 2, 0]
    """

    tokenizer_class = "PreTrainedTokenizerFast"

    merges: tuple[tuple[str, str], ...] = ()
    metaspace: str | None = None
    split_words: bool = True
    normal_form: str | None = None
    strip_left: bool = False
    strip_right: bool = False
    unk_in_model: bool = False
    fuse_unk: bool = False
    decodes_spaces: bool = False
    joins_with_spaces: bool = False

    @classmethod
    def create(
        cls, vocab: Mapping[str, int], merges: Iterable[str | tuple[str, str]] = (), **fields: Any
    ) -> CharacterBPESpec:
        """Returns a checked specification, see `TokenizerSpec.create`.

        Args:
            vocab: Token to id.
            merges: Pairs, as tuples or as `"left right"`.
            **fields: See `TokenizerSpec.create`.
        """
        return super().create(vocab, merges=check_pairs(merges), **fields)

    def check(self) -> None:
        """Checks that the fields have allowed values and fit together."""
        bpe.check_merges(self.vocab, self.merges)
        super().check()
        check_choice("metaspace", self.metaspace, (None, *_SCHEMES))
        check_choice("normal_form", self.normal_form, (None, *normal_form.FORMS))
        if not self.unk_in_model:
            return
        self.check_role("unk_token", "unk_in_model")
        unk = self.roles["unk_token"]
        if unk not in self.vocab or any(unk in pair for pair in self.merges):
            raise value_error(
                "`unk_token` of the model must be a token of its vocabulary, and in no merge.",
                fix="Check `model.unk_token` in `tokenizer.json`.",
                unk_token=unk,
            )

    def to_options(self) -> dict[str, Any]:
        """Returns the arguments of `from_options` that make an equal specification."""
        return super().to_options() | {"merges": [list(pair) for pair in self.merges]}

    @property
    def strips_first_space(self) -> bool:
        """Whether a whole text does not begin with the space that its first token writes."""
        return self.joins_with_spaces or (self.decodes_spaces and self.metaspace != "never")

    @classmethod
    def matches(cls, data: Mapping[str, Any]) -> bool:
        """Returns whether the contents of a `tokenizer.json` are of this family."""
        if (data.get("model") or {}).get("type", "BPE") != "BPE":
            return False
        pre = [step["type"] for step in list_stages(data, "pre_tokenizer", "pretokenizers")]
        decoder = [step["type"] for step in list_stages(data, "decoder", "decoders")]
        return pre in ([], ["Metaspace"]) and "ByteLevel" not in decoder

    @classmethod
    def fields_from_json(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the family's fields from the contents of `tokenizer.json`."""
        model = get_value(data, "model", dict)
        form, normal = normal_form.split_form(list_stages(data, "normalizer", "normalizers"))
        pre = list_stages(data, "pre_tokenizer", "pretokenizers")
        decoder = list_stages(data, "decoder", "decoders")
        unsupported = {f"model.{key}": model[key] for key in _UNSUPPORTED if model.get(key)}
        if [step["type"] for step in normal] not in ([], ["Strip"]):
            unsupported["normalizer"] = data["normalizer"]
        if [step["type"] for step in decoder] not in ([], ["Metaspace"], ["Fuse"]):
            unsupported["decoder"] = data["decoder"]
        for name, parts in (("pre_tokenizer", pre), ("decoder", decoder)):
            if any(part.get("replacement", METASPACE) != METASPACE for part in parts):
                unsupported[name] = data[name]
        for part, value in unsupported.items():
            raise value_error(
                f"`{part}` asks for something that BPE over characters does not do here.",
                fix="Load this tokenizer with the `tokenizers` library instead, and pass its ids to"
                " the model.",
                **{part: value},
            )
        kind = decoder[0]["type"] if decoder else None
        vocab = get_value(model, "model.vocab", dict)
        added = {token["content"]: token["id"] for token in data.get("added_tokens") or []}
        unk_token = get_value(model, "model.unk_token", str, "")
        strip = normal[0] if normal else {"strip_left": False, "strip_right": False}
        return {
            "vocab": vocab,
            "merges": get_value(model, "model.merges", list, []),
            "metaspace": _scheme(pre[0]) if pre else None,
            "split_words": get_value(pre[0], "pre_tokenizer.split", bool, True) if pre else True,
            "normal_form": form,
            "strip_left": get_value(strip, "normalizer.strip_left", bool, True),
            "strip_right": get_value(strip, "normalizer.strip_right", bool, True),
            "unk_in_model": bool(unk_token),
            "fuse_unk": get_value(model, "model.fuse_unk", bool, False),
            "decodes_spaces": kind == "Metaspace",
            "joins_with_spaces": kind is None,
            "template": read_template(data, vocab | added),
            "roles": {"unk_token": unk_token} if unk_token else {},
        }

    def token_to_bytes(self, token: str) -> bytes:
        """Returns the bytes that a token writes after other text."""
        text = token.replace(METASPACE, " ") if self.decodes_spaces else token
        return (f" {text}" if self.joins_with_spaces else text).encode()

    def build_graph(self, split: Sequence[AddedToken]) -> CharacterBPEGraph:
        """Returns the operations in the graph."""
        return CharacterBPEGraph(self, split)

    def pipeline(self) -> tokenizers.Tokenizer:
        """Returns the tokenizer of the `tokenizers` library, without its added tokens."""
        unk = self.roles.get("unk_token") if self.unk_in_model else None
        model = tokenizers.models.BPE(
            self.vocab, list(self.merges), unk_token=unk, fuse_unk=self.fuse_unk
        )
        result = tokenizers.Tokenizer(model)
        steps = [normal_form.host_normalizer(self.normal_form)] if self.normal_form else []
        if self.strip_left or self.strip_right:
            steps.append(tokenizers.normalizers.Strip(self.strip_left, self.strip_right))
        if steps:
            result.normalizer = tokenizers.normalizers.Sequence(steps)
        if self.metaspace:
            result.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(
                METASPACE, prepend_scheme=self.metaspace, split=self.split_words
            )
        if self.decodes_spaces:
            result.decoder = tokenizers.decoders.Metaspace(
                METASPACE, prepend_scheme=self.metaspace or "always"
            )
        elif not self.joins_with_spaces:
            result.decoder = tokenizers.decoders.Fuse()
        return result


class CharacterBPEGraph(TokenizerGraph):
    """The operations of BPE over characters in the graph.

    Characters without a token become one character that stands for all of them, `_unknown`, so that
    the SentencePiece kernel knows every character it meets.

    Args:
        spec: The tokenizer.
        split: The added tokens that are split off from texts.
    """

    def __init__(self, spec: CharacterBPESpec, split: Sequence[AddedToken]) -> None:
        split = [
            dataclasses.replace(token, content=_normalized(spec, token.content))
            if token.normalized
            else token
            for token in split
        ]
        super().__init__(spec.token_bytes, spec.special_ids, split)
        symbols = {token for token in spec.vocab if len(token) == 1}
        used = {character for token in spec.vocab for character in token}
        self._unknown, never = (c for c, _ in zip(_unused(used), range(2), strict=False))
        unk_id = spec.role_id("unk_token") if spec.unk_in_model else None
        scores = bpe.piece_scores(spec.vocab, spec.merges, symbols)
        pieces = list(scores.items())
        ids = [spec.vocab[token] for token in scores]
        if unk_id is not None:
            pieces.append((self._unknown, 0.0))
        self._sentencepiece = SentencepieceModel(bpe.sentencepiece_model(pieces, never))
        self._piece_ids = tf.constant(
            [-1, *ids] + ([] if unk_id is None else [unk_id]), tf.int32
        )  # [P]
        self._fuses = spec.fuse_unk and unk_id is not None
        known = {ord(one): (ord(one),) for one in symbols}
        others = () if unk_id is None else (ord(self._unknown),)
        self._characters = CodePointMap(make_tables(known, others))
        keys = [token.encode() for token in scores]
        keys += [SPECIAL + token.content.encode() for token in split]
        values = np.array(ids + [token.id for token in split], np.int32)
        self._words = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant(keys, tf.string), tf.constant(values)),
            -1,
        )
        self._form = normal_form.NormalForm(spec.normal_form) if spec.normal_form else None
        self._strips = [
            pattern
            for pattern, wanted in (
                (f"^{_SPACES}", spec.strip_left),
                (f"{_SPACES}$", spec.strip_right),
            )
            if wanted
        ]
        self._metaspace, self._splits = spec.metaspace, spec.split_words

    def normalize(self, text: Rows) -> Rows:
        """Returns texts in their normal form, without the white space that they lose."""
        values = text.values
        if self._form is not None:
            values = self._form(tf.where(is_special(values), "", values))
        for pattern in self._strips:
            values = tf.strings.regex_replace(values, pattern, "", replace_global=False)
        return text if values is text.values else keep_special(text, values)

    def encode_segments(self, text: Rows) -> tf.RaggedTensor:
        """Returns the ids `[B, (T)]` of texts whose added tokens were split off."""
        words = self._split_words(text)
        ids = self._words.lookup(words.values)  # [W]
        misses = tf.where(ids < 0)  # [misses, 1]
        texts, text_of_miss = tf.unique(tf.gather_nd(words.values, misses))  # [U], [misses]
        known = self._characters(texts)
        if self._fuses:
            known = tf.strings.regex_replace(known, f"{self._unknown}+", self._unknown)
        pieces = self._sentencepiece.tokenize(known)  # [U, (pieces)]
        pieces = pieces.with_values(tf.gather(self._piece_ids, pieces.values))
        return scatter_misses(words, ids, misses, text_of_miss, pieces)

    def _split_words(self, text: Rows) -> Rows:
        """Returns the words of texts, with `▁` for spaces where the tokenizer has it."""
        values = text.values
        if self._metaspace is not None:
            values = tf.strings.regex_replace(values, " ", METASPACE)
            if self._metaspace != "never":
                bare = ~tf.strings.regex_full_match(values, f"(?s)({METASPACE}.*)?")
                if self._metaspace == "first":
                    starts = text.row_splits[:-1, tf.newaxis]  # of each text, of segments [S]
                    size = tf.size(values, tf.int64)[tf.newaxis] + 1
                    firsts = tf.scatter_nd(starts, tf.ones_like(starts[:, 0]), size)
                    bare &= firsts[:-1] > 0
                values = tf.where(bare, tf.strings.join([METASPACE, values]), values)
            if self._splits:
                values = tf.strings.regex_replace(values, METASPACE, CUT + METASPACE.encode())
        values = tf.where(is_special(text.values), text.values, values)
        return split_at_cuts(text._replace(values=values))


def _scheme(step: Mapping[str, Any]) -> str:
    """Returns where a `Metaspace` step puts `▁`; older files say it with `add_prefix_space`."""
    scheme = get_value(step, "pre_tokenizer.prepend_scheme", str, "")
    if scheme:
        return scheme
    added = get_value(step, "pre_tokenizer.add_prefix_space", bool, True)
    return "always" if added else "never"


def _normalized(spec: CharacterBPESpec, text: str) -> str:
    normalizer = spec.pipeline().normalizer
    return text if normalizer is None else normalizer.normalize_str(text)


def _unused(used: set[str]) -> Iterable[str]:
    """Yields private characters that no token has."""
    return (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used)
