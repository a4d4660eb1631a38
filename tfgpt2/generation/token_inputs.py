"""Checks of what `model.generate` takes beside each id: its type and its position."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfgpt2.errors import value_error


def check_token_types(model: Any, types: Any, mask: np.ndarray) -> np.ndarray | None:
    """Checks token types: int32 `[B, P]`."""
    if types is None:
        return None
    types, vocabulary = np.asarray(types), model.config.vocab_size
    fits = types.shape == mask.shape and types.dtype.kind in "iu"
    if not fits or not ((types >= 0) & (types < vocabulary)).all():
        raise value_error(
            f"`token_type_ids` must be integers in [0, {vocabulary}), one for each prompt token.",
            fix="Pass the tokenizer's output unchanged.",
            token_type_ids=f"{types.dtype} {list(types.shape)}",
        )
    return types.astype(np.int32)


def check_positions(positions: Any, mask: np.ndarray) -> None:
    """Checks that given positions are those that follow from the mask, which generation uses.

    transformers 4.57 adds the positions of the whole prompt to every new token, too, so no program
    can depend on others.
    """
    if positions is None:
        return
    positions = np.asarray(positions)
    known = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    read = np.broadcast_to(mask > 0, known.shape)
    if positions.shape[-1:] != known.shape[1:] or np.any((positions != known) & read):
        raise value_error(
            "`position_ids` in generate() must count the tokens of each row from 0, as the"
            " attention mask does.",
            fix="Leave position_ids out: they follow from attention_mask.",
            position_ids=positions,
        )
