"""The tokenizer families: add one here."""

from __future__ import annotations

from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.byte_level_bpe import ByteLevelBPESpec
from tfgpt2.tokenizers.sentencepiece_families import (
    AlbertSpec,
    GPTSw3Spec,
    SentencePieceSpec,
    T5Spec,
)

# The first one that matches a `tokenizer.json` reads it; the first of all is the default.
FAMILIES: dict[str, type[TokenizerSpec]] = {
    "byte_level_bpe": ByteLevelBPESpec,
    "sentencepiece": SentencePieceSpec,
    "t5": T5Spec,
    "albert": AlbertSpec,
    "gpt_sw3": GPTSw3Spec,
}
