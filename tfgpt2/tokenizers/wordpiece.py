"""The WordPiece family: the tokenizer of BERT, and of most Chinese GPT-2 models."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
import tokenizers
from tensorflow_text.python.ops import wordpiece_tokenizer

from tfgpt2.errors import value_error
from tfgpt2.tokenizers import character_changes
from tfgpt2.tokenizers.added_tokens import AddedToken, token_text
from tfgpt2.tokenizers.base import SETTINGS, TokenizerSpec
from tfgpt2.tokenizers.code_point_map import CodePointMap, Tables, make_tables
from tfgpt2.tokenizers.graph import TokenizerGraph
from tfgpt2.tokenizers.json_files import read_text
from tfgpt2.tokenizers.json_values import get_value, list_stages
from tfgpt2.tokenizers.segments import (
    SPECIAL,
    Rows,
    is_special,
    keep_special,
    regroup,
    scatter_misses,
)
from tfgpt2.tokenizers.spec_checks import check_setting
from tfgpt2.tokenizers.template import Template, read_template
from tfgpt2.validation import check_count, check_range

_ops = wordpiece_tokenizer.gen_wordpiece_tokenizer

_ROLES = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}  # fmt: skip
# What decoding joins to the word before.
# Source: `cleanup` of `tokenizers`, `decoders/wordpiece.rs`.
_JOINED = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")
# Characters before which no space is written: dashes, quotes and dots as Chinese has them;
# radicals, punctuation, kana, Bopomofo, ideographs; compatibility, full-width and half-width forms.
_NO_SPACE = (
    (0x2014, 0x2014), (0x2018, 0x201D), (0x2026, 0x2026), (0x2E80, 0x312F), (0x31A0, 0x31FF),
    (0x3300, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFE30, 0xFE4F), (0xFF01, 0xFF9F),
    (0xFFE0, 0xFFE6), (0x20000, 0x3FFFD),
)  # fmt: skip
_LONGEST = 1 << 20  # characters of a word
_CUT = " "
_HIDDEN_SPACE = b"\xfd"  # stands for a space inside an added token; never in valid UTF-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordPieceSpec(TokenizerSpec):
    """A WordPiece tokenizer as data.

    Text is normalized, cut into words at white space, around punctuation and around CJK characters,
    and each word into the longest pieces of the vocabulary from its beginning on. A word that
    cannot be spelled, or of more than `max_input_chars_per_word` characters, is `unk_token`.

    Attributes:
        continuing_subword_prefix: What the pieces after the first one of a word begin with.
        max_input_chars_per_word: Most characters of a word.
        do_lower_case: Whether text becomes lower-case.
        strip_accents: Whether text loses its accents; None does what `do_lower_case` says.
        tokenize_chinese_chars: Whether each CJK character is a word.
        clean_text: Whether control characters are removed.
        joins_punctuation: Whether decoded text has no space before `.`, `?`, `!`, `,`.
        spaces_between_cjk: Whether decoded text has spaces between CJK characters, which are words.

    Example:
        >>> spec = WordPieceSpec.create({"[UNK]": 0, "un": 1, "##do": 2, "!": 3})
        >>> spec.backend().encode("undo! redo").ids
        [1, 2, 3, 0]
    """

    tokenizer_class = "BertTokenizer"
    same_classes = ("DistilBertTokenizer", "ElectraTokenizer")
    known_files = (("vocab.txt",),)
    settings = (
        "do_lower_case", "strip_accents", "tokenize_chinese_chars", "spaces_between_cjk", *SETTINGS,
    )  # fmt: skip

    continuing_subword_prefix: str = "##"
    max_input_chars_per_word: int = 100
    do_lower_case: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True
    clean_text: bool = True
    joins_punctuation: bool = True
    spaces_between_cjk: bool = False

    @classmethod
    def create(cls, vocab: Mapping[str, int], *, roles: Any = None, **fields: Any) -> WordPieceSpec:
        """Returns a checked specification, see `TokenizerSpec.create`.

        Args:
            vocab: Token to id.
            roles: Role to token; BERT's own (`"[UNK]"`, `"[CLS]"`, ...) are the defaults, where the
                vocabulary has them.
            **fields: See `TokenizerSpec.create`.
        """
        known = vocab if isinstance(vocab, Mapping) else {}
        present = {role: token for role, token in _ROLES.items() if token in known}
        return super().create(vocab, roles=present | dict(roles or {}), **fields)

    def check(self) -> None:
        """Checks that the fields have allowed values and fit together."""
        super().check()
        if self.vocab.get(self.roles.get("unk_token")) is None:
            raise value_error(
                "WordPiece needs a token for words that it cannot spell, in its vocabulary.",
                fix="Pass `unk_token=`, or check `vocab.txt` or `model.unk_token` in"
                " `tokenizer.json`.",
                unk_token=self.roles.get("unk_token"),
            )
        for name in ("clean_text", "joins_punctuation"):
            check_setting(name, getattr(self, name))
        check_count("max_input_chars_per_word", self.max_input_chars_per_word, 1, optional=False)
        check_range("max_input_chars_per_word", self.max_input_chars_per_word, 1, _LONGEST)

    @property
    def strips_first_space(self) -> bool:
        """Whether a whole text does not begin with the space that its first token writes."""
        return True

    @classmethod
    def matches(cls, data: Mapping[str, Any]) -> bool:
        """Returns whether the contents of a `tokenizer.json` are of this family."""
        return (data.get("model") or {}).get("type") == "WordPiece"

    @classmethod
    def fields_from_json(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the family's fields from the contents of `tokenizer.json`."""
        model = get_value(data, "model", dict)
        normal = list_stages(data, "normalizer", "normalizers")
        pre = list_stages(data, "pre_tokenizer", "pretokenizers")
        decoder = list_stages(data, "decoder", "decoders")
        for name, steps, kinds in (
            ("normalizer", normal, (["BertNormalizer"], [])),
            ("pre_tokenizer", pre, (["BertPreTokenizer"],)),
            ("decoder", decoder, (["WordPiece"], [])),
        ):
            if [step["type"] for step in steps] not in kinds:
                raise value_error(
                    f"`{name}` asks for something that BERT's WordPiece does not do.",
                    fix="Load this tokenizer with the `tokenizers` library instead, and pass its"
                    " ids to the model.",
                    **{name: data.get(name)},
                )
        flags = {
            "do_lower_case": "lowercase",
            "tokenize_chinese_chars": "handle_chinese_chars",
            "clean_text": "clean_text",
        }
        normalizer = normal[0] if normal else dict.fromkeys(flags.values(), False)
        fields = {
            ours: get_value(normalizer, f"normalizer.{theirs}", bool, True)
            for ours, theirs in flags.items()
        }
        vocab = get_value(model, "model.vocab", dict)
        unk = get_value(model, "model.unk_token", str, "[UNK]")
        added = {token["content"]: token["id"] for token in data.get("added_tokens") or []}
        clean_up = get_value(decoder[0], "decoder.cleanup", bool, True) if decoder else False
        return fields | {
            "vocab": vocab,
            "strip_accents": normalizer.get("strip_accents"),
            "continuing_subword_prefix": get_value(
                model, "model.continuing_subword_prefix", str, "##"
            ),
            "max_input_chars_per_word": get_value(
                model, "model.max_input_chars_per_word", int, 100
            ),
            "joins_punctuation": clean_up,
            "template": read_template(data, vocab | added),
            "roles": {"unk_token": unk},
        }

    @classmethod
    def fields_from_files(
        cls, find: Callable[[str], Path], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the vocabulary of `vocab.txt`, one token a line, and `[CLS]` and `[SEP]`."""
        lines = read_text(find("vocab.txt")).split("\n")
        vocab: dict[str, int] = {}
        for number, line in enumerate(lines):
            if line and vocab.setdefault(line, number) != number:
                raise value_error(
                    "Two lines of 'vocab.txt' are the same token.",
                    fix="Check the file: each line is the token of one id.",
                    token=line,
                    lines=(vocab[line] + 1, number + 1),
                )
        unusual = {"do_basic_tokenize": config.get("do_basic_tokenize") is False,
                   "never_split": bool(config.get("never_split"))}  # fmt: skip
        for name, asked in unusual.items():
            if asked:
                raise value_error(
                    f"`{name}` asks for something that BERT's WordPiece does not do here.",
                    fix="Remove it from `tokenizer_config.json`, or tokenize with transformers and"
                    " pass the ids to the model.",
                    **{name: config[name]},
                )
        around = (token_text(config.get(role, _ROLES[role])) for role in ("cls_token", "sep_token"))
        cls_token, sep_token = (tuple(t for t in [token] if t in vocab) for token in around)
        return {"vocab": vocab, "template": Template(cls_token, sep_token)}

    @classmethod
    def fields_from_python(cls, tokenizer: Any) -> dict[str, Any] | None:
        """Returns the fields of a slow BERT tokenizer of transformers."""
        vocab = getattr(tokenizer, "vocab", None)
        if not (hasattr(tokenizer, "wordpiece_tokenizer") and isinstance(vocab, Mapping)):
            return None
        basic = getattr(tokenizer, "basic_tokenizer", None)
        around = ((tokenizer.cls_token,), (tokenizer.sep_token,))
        fields = {"vocab": dict(vocab), "template": Template(*around)}
        names = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
        return fields | {name: getattr(basic, name) for name in names if hasattr(basic, name)}

    def vocabulary_files(self) -> dict[str, str | bytes]:
        """Returns `vocab.txt`: one token a line, an empty one for an id without a token."""
        lines = [""] * (1 + max(self.vocab.values(), default=-1))
        for token, token_id in self.vocab.items():
            lines[token_id] = token
        return {"vocab.txt": "".join(f"{line}\n" for line in lines)}

    def token_to_bytes(self, token: str) -> bytes:
        """Returns the bytes that a token writes after other text."""
        prefix = self.continuing_subword_prefix
        if prefix and token.startswith(prefix):
            return token.removeprefix(prefix).encode()
        return self._word(token)

    def added_to_bytes(self, token: AddedToken) -> bytes:
        """Returns the bytes that an added token writes after other text."""
        return token.content.encode() if token.special else self._word(token.content)

    def _word(self, token: str) -> bytes:
        """Returns the bytes of a token that begins a word."""
        if not token:
            return b""
        if not self.spaces_between_cjk and any(a <= ord(token[0]) <= b for a, b in _NO_SPACE):
            return token.encode()
        text = f" {token}"
        for joined in _JOINED if self.joins_punctuation else ():
            text = text.replace(joined, joined[1:])
        return text.encode()

    @property
    def strips_accents(self) -> bool:
        """Whether text loses its accents."""
        return self.do_lower_case if self.strip_accents is None else self.strip_accents

    def build_graph(self, split: Sequence[AddedToken]) -> WordPieceGraph:
        """Returns the operations in the graph."""
        return WordPieceGraph(self, split)

    def pipeline(self) -> tokenizers.Tokenizer:
        """Returns the tokenizer of the `tokenizers` library, without its added tokens."""
        prefix = self.continuing_subword_prefix
        model = tokenizers.models.WordPiece(
            self.vocab,
            unk_token=self.roles["unk_token"],
            max_input_chars_per_word=self.max_input_chars_per_word,
            continuing_subword_prefix=prefix,
        )
        result = tokenizers.Tokenizer(model)
        result.normalizer = tokenizers.normalizers.BertNormalizer(
            clean_text=self.clean_text,
            handle_chinese_chars=self.tokenize_chinese_chars,
            strip_accents=self.strip_accents,
            lowercase=self.do_lower_case,
        )
        result.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        result.decoder = tokenizers.decoders.WordPiece(
            prefix=prefix, cleanup=self.joins_punctuation
        )
        return result


class WordPieceGraph(TokenizerGraph):
    """The operations of WordPiece in the graph.

    Args:
        spec: The tokenizer.
        split: The added tokens that are split off from texts.
    """

    def __init__(self, spec: WordPieceSpec, split: Sequence[AddedToken]) -> None:
        normalizer = spec.pipeline().normalizer
        split = [
            dataclasses.replace(token, content=normalizer.normalize_str(token.content))
            if token.normalized
            else token
            for token in split
        ]
        super().__init__(spec.token_bytes, spec.special_ids, split)
        changes = (
            spec.clean_text, spec.tokenize_chinese_chars, spec.strips_accents, spec.do_lower_case,
        )  # fmt: skip
        marks = None
        if spec.strips_accents:
            marks = character_changes.sorted_marks(character_changes.read_changes(*changes))
        self._normalize = None
        if any(token.normalized for token in split):
            self._normalize = CodePointMap(_tables(changes, splits=False), marks)
            self._split = CodePointMap(_tables(None, splits=True))
        else:  # one table for both
            self._split = CodePointMap(_tables(changes, splits=True), marks)
        self._has_spaces = any(_CUT in token.content for token in split)
        contents = [token.content.encode() for token in split]
        most, prefix = spec.max_input_chars_per_word, spec.continuing_subword_prefix
        unk = spec.roles["unk_token"]
        tokens = [t for t in spec.vocab if 0 < len(t.removeprefix(prefix)) <= most or t == unk]
        keys = [t.encode() for t in tokens]
        keys += [SPECIAL + content.replace(_CUT.encode(), _HIDDEN_SPACE) for content in contents]
        ids = [*(spec.vocab[t] for t in tokens), *(token.id for token in split)]
        self._ids = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(keys, tf.string), tf.constant(ids, tf.int64)
            ),
            -1,
        )
        self._prefix, self._most, self._unk = prefix, most, unk

    def normalize(self, text: Rows) -> Rows:
        """Returns normalized texts, where added tokens are to be found in them."""
        if self._normalize is None:
            return text
        return keep_special(text, self._normalize(text.values))

    def encode_segments(self, text: Rows) -> tf.RaggedTensor:
        """Returns the ids `[B, (T)]` of texts whose added tokens were split off."""
        values = self._split(text.values)
        if self.passes:
            whole = text.values
            if self._has_spaces:
                whole = tf.strings.regex_replace(whole, _CUT, _HIDDEN_SPACE)
            values = tf.where(is_special(text.values), whole, values)
        split = tf.raw_ops.StringSplit(input=values, delimiter=_CUT, skip_empty=True)
        words = regroup(text, split.values, split.indices[:, 0])
        ids = self._ids.lookup(words.values)  # [W]
        misses = tf.where(ids < 0)  # [misses, 1]
        texts, text_of_miss = tf.unique(tf.gather_nd(words.values, misses))  # [U], [misses]
        pieces = self._pieces(texts)  # [U, (pieces)]
        return scatter_misses(words, ids, misses, text_of_miss, pieces)

    def _pieces(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids int64 `[U, (pieces)]` of words that are not tokens."""
        long = tf.strings.length(words, "UTF8_CHAR") > self._most
        pieces, splits, _, _ = _ops.wordpiece_tokenize_with_offsets(
            input_values=tf.where(long, self._unk, words),
            vocab_lookup_table=self._ids.resource_handle,
            suffix_indicator=self._prefix,
            use_unknown_token=True,
            max_bytes_per_word=4 * self._most + len(self._unk.encode()),
            max_chars_per_token=0,
            unknown_token=self._unk,
            split_unknown_characters=False,
            output_row_partition_type="row_splits",
        )
        return tf.RaggedTensor.from_row_splits(self._ids.lookup(pieces), splits, validate=False)


@functools.cache
def _tables(changes: tuple[bool, ...] | None, splits: bool) -> Tables:
    """Returns the tables of the normalizer, of the word splitter, or of the one after the other.

    Args:
        changes: Arguments of `read_changes`; None is no normalizer.
        splits: Whether to split words.
    """
    first = {} if changes is None else character_changes.read_changes(*changes)
    then = character_changes.read_splits() if splits else {}
    return make_tables(character_changes.compose(first, then))
