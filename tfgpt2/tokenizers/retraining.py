"""Training of a new vocabulary for a tokenizer that exists, with its rules for splitting texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.base import TokenizerSpec

_TRAINERS = {
    "BPE": tokenizers.trainers.BpeTrainer,
    "WordPiece": tokenizers.trainers.WordPieceTrainer,
    "WordLevel": tokenizers.trainers.WordLevelTrainer,
}


def retrain(
    spec: TokenizerSpec,
    texts: Iterable[str] | Iterable[Sequence[str]],
    vocab_size: int,
    special_tokens: Sequence[str],
    **options: Any,
) -> tokenizers.Tokenizer:
    """Trains a vocabulary.

    Args:
        spec: The tokenizer whose rules are kept.
        texts: Texts, or batches of texts.
        vocab_size: Tokens of the vocabulary, special ones included.
        special_tokens: Tokens that never take part in merges; they get the first ids.
        **options: Options of the trainer of `tokenizers`, such as `min_frequency`.

    Raises:
        ValueError: Vocabularies of this kind are not trained here.
    """
    data = json.loads(spec.pipeline().to_str())
    kind = data["model"]["type"]
    if kind not in _TRAINERS:
        raise value_error(
            f"A vocabulary of this kind is not trained here; the kinds are {', '.join(_TRAINERS)}.",
            fix="Train it with the `tokenizers` library and pass tokenizer_object=.",
            kind=kind,
        )
    data["model"]["vocab"], data["added_tokens"] = {}, []
    if kind == "BPE":
        data["model"]["merges"] = []
        stages = json.dumps(data["pre_tokenizer"])
        if '"ByteLevel"' in stages:
            alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
            options.setdefault("initial_alphabet", sorted(alphabet))
    empty = tokenizers.Tokenizer.from_str(json.dumps(data))
    options.setdefault("show_progress", False)
    trainer = _TRAINERS[kind](vocab_size=vocab_size, special_tokens=list(special_tokens), **options)
    empty.train_from_iterator(texts, trainer=trainer)
    return empty
