"""The word-level family: each word is a token, as for music, or each character."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tokenizers

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.added_tokens import AddedToken
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.graph import TokenizerGraph
from tfgpt2.tokenizers.json_values import get_value, list_stages
from tfgpt2.tokenizers.segments import CUT, SPECIAL, Rows, keep_special, split_at_cuts
from tfgpt2.tokenizers.template import read_template
from tfgpt2.tokenizers.unicode_classes import LETTERS, WHITE_SPACE, WORD_PARTS, character_class
from tfgpt2.validation import check_choice

_WORD = character_class(LETTERS) + character_class(WORD_PARTS)
_SPACE = character_class(WHITE_SPACE)
# What is cut before and after, by what a word is: the names of pre-tokenizers of `tokenizers`.
_CUTS = {
    "WhitespaceSplit": None,
    "Whitespace": f"[{_WORD}]+|[^{_WORD}{_SPACE}]+",
    "characters": "(?s).",
    None: None,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordLevelSpec(TokenizerSpec):
    """A word-level tokenizer as data; a word without a token is `unk_token`.

    Attributes:
        words: What a word is: `"WhitespaceSplit"`, what stands between white space;
            `"Whitespace"`, a run of letters, digits and `_`, or of other characters;
            `"characters"`, a character; None, the text between two added tokens.
        joins_with_spaces: Whether decoded tokens have spaces between them.

    Example:
        >>> spec = WordLevelSpec.create({"?": 0, "NOTE=60": 1}, roles={"unk_token": "?"})
        >>> spec.backend().encode("NOTE=60 NOTE=61").ids
        [1, 0]
    """

    tokenizer_class = "PreTrainedTokenizerFast"

    words: str | None = "WhitespaceSplit"
    joins_with_spaces: bool = True

    def check(self) -> None:
        """Checks that the fields have allowed values and fit together."""
        super().check()
        check_choice("words", self.words, tuple(_CUTS))
        if self.vocab.get(self.roles.get("unk_token")) is None:
            raise value_error(
                "A word-level tokenizer needs a token for words without one, in its vocabulary.",
                fix="Pass `unk_token=`, or check `model.unk_token` in `tokenizer.json`.",
                unk_token=self.roles.get("unk_token"),
            )

    @property
    def strips_first_space(self) -> bool:
        """Whether a whole text does not begin with the space that its first token writes."""
        return self.joins_with_spaces

    @classmethod
    def matches(cls, data: Mapping[str, Any]) -> bool:
        """Returns whether the contents of a `tokenizer.json` are of this family."""
        return (data.get("model") or {}).get("type") == "WordLevel"

    @classmethod
    def fields_from_json(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the family's fields from the contents of `tokenizer.json`."""
        model = get_value(data, "model", dict)
        pre = list_stages(data, "pre_tokenizer", "pretokenizers")
        decoder = [step["type"] for step in list_stages(data, "decoder", "decoders")]
        words = _words(pre)
        wrong = {
            "normalizer": bool(list_stages(data, "normalizer", "normalizers")),
            "pre_tokenizer": words == "",
            "decoder": decoder not in ([], ["Fuse"]),
        }
        for part, unsupported in wrong.items():
            if unsupported:
                raise value_error(
                    f"`{part}` asks for something that the word-level family does not do.",
                    fix="Load this tokenizer with the `tokenizers` library instead, and pass its"
                    " ids to the model.",
                    **{part: data[part]},
                )
        vocab = get_value(model, "model.vocab", dict)
        added = {token["content"]: token["id"] for token in data.get("added_tokens") or []}
        return {
            "vocab": vocab,
            "words": words,
            "joins_with_spaces": not decoder,
            "template": read_template(data, vocab | added),
            "roles": {"unk_token": get_value(model, "model.unk_token", str, "<unk>")},
        }

    def token_to_bytes(self, token: str) -> bytes:
        """Returns the bytes that a token writes after other text."""
        return (f" {token}" if self.joins_with_spaces else token).encode()

    def build_graph(self, split: Sequence[AddedToken]) -> WordLevelGraph:
        """Returns the operations in the graph."""
        return WordLevelGraph(self, split)

    def pipeline(self) -> tokenizers.Tokenizer:
        """Returns the tokenizer of the `tokenizers` library, without its added tokens."""
        model = tokenizers.models.WordLevel(self.vocab, self.roles["unk_token"])
        result = tokenizers.Tokenizer(model)
        if self.words == "characters":
            result.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
        elif self.words is not None:
            result.pre_tokenizer = getattr(tokenizers.pre_tokenizers, self.words)()
        if not self.joins_with_spaces:
            result.decoder = tokenizers.decoders.Fuse()
        return result


class WordLevelGraph(TokenizerGraph):
    """The operations of the word-level family in the graph.

    Args:
        spec: The tokenizer.
        split: The added tokens that are split off from texts.
    """

    def __init__(self, spec: WordLevelSpec, split: Sequence[AddedToken]) -> None:
        super().__init__(spec.token_bytes, spec.special_ids, split)
        keys = [token.encode() for token in spec.vocab]
        keys += [SPECIAL + token.content.encode() for token in split]
        ids = [*spec.vocab.values(), *(token.id for token in split)]
        self._ids = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(keys, tf.string), tf.constant(ids, tf.int32)
            ),
            spec.role_id("unk_token"),
        )
        self._words = spec.words

    def encode_segments(self, text: Rows) -> tf.RaggedTensor:
        """Returns the ids `[B, (T)]` of texts whose added tokens were split off."""
        cut = text.values
        if self._words in ("WhitespaceSplit", "Whitespace"):
            cut = tf.strings.regex_replace(cut, f"[{_SPACE}]+", CUT)
        if _CUTS[self._words]:
            cut = tf.strings.regex_replace(cut, _CUTS[self._words], CUT + rb"\0" + CUT)
        words = split_at_cuts(keep_special(text, cut))
        return tf.RaggedTensor.from_row_splits(
            self._ids.lookup(words.values), words.row_splits, validate=False
        )


def _words(steps: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns what a word is for a pre-tokenizer; "" for one that the family does not have."""
    match list(steps):
        case []:
            return None
        case [{"type": "WhitespaceSplit" | "Whitespace" as name}]:
            return name
        case [{"type": "Split", "pattern": {"String": ""} | {"Regex": "" | "."},
               "behavior": "Isolated", "invert": False}]:  # fmt: skip
            return "characters"
    return ""
