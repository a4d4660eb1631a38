"""The tokenizer families: add one here."""

from __future__ import annotations

from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.byte_level_bpe import ByteLevelBPESpec

# The first one that matches a `tokenizer.json` reads it; the first of all is the default.
FAMILIES: dict[str, type[TokenizerSpec]] = {
    "byte_level_bpe": ByteLevelBPESpec,
}
