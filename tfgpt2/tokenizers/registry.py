"""The tokenizer families: add one here."""

from __future__ import annotations

from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.byte_level_bpe import ByteLevelBPESpec
from tfgpt2.tokenizers.character_bpe import CharacterBPESpec
from tfgpt2.tokenizers.sentencepiece_families import (
    AlbertSpec,
    GPTSw3Spec,
    SentencePieceSpec,
    T5Spec,
)
from tfgpt2.tokenizers.word_level import WordLevelSpec
from tfgpt2.tokenizers.wordpiece import WordPieceSpec

# The first one that matches a `tokenizer.json` reads it; the first of all is the default.
FAMILIES: dict[str, type[TokenizerSpec]] = {
    "byte_level_bpe": ByteLevelBPESpec,
    "sentencepiece": SentencePieceSpec,
    "t5": T5Spec,
    "albert": AlbertSpec,
    "gpt_sw3": GPTSw3Spec,
    "wordpiece": WordPieceSpec,
    "character_bpe": CharacterBPESpec,
    "word_level": WordLevelSpec,
}
