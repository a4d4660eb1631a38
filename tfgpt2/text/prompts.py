"""From tokenized texts to right-aligned prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.buckets import round_up
from tfgpt2.generation.params import Prompt

# Codes that follow those of decoding: the row was refused and nothing was generated.
_REFUSALS = ("prompt_too_long", "empty_prompt", "unknown_token")
TOO_LONG, EMPTY, UNKNOWN = (len(stopping.FINISH_REASONS) + i for i in range(len(_REFUSALS)))
FINISH_REASONS = (*stopping.FINISH_REASONS, *_REFUSALS)


class PromptStatus(NamedTuple):
    """Status of each prompt.

    Attributes:
        length: int32 `[B]`, tokens that are read.
        truncated: int32 `[B]`, tokens that were dropped on the left.
        refusal: int32 `[B]`, an index into `FINISH_REASONS` for rows that cannot run, else 0.
    """

    length: tf.Tensor
    truncated: tf.Tensor
    refusal: tf.Tensor


def make_prompt(
    tokens: tf.RaggedTensor,
    max_new_tokens: tf.Tensor,
    *,
    context: int,
    start_id: int | None,
    truncate: bool,
    buckets: Sequence[int],
    vocab_size: int | None = None,
    num_first: int = 0,
) -> tuple[Prompt, PromptStatus]:
    """Pushes tokenized prompts against the right edge of a bucket.

    Args:
        tokens: int32 ragged `[B, (P)]`.
        max_new_tokens: int32 `[B]`, for which a truncated prompt leaves room.
        context: Most tokens the model takes, prompt and continuation together.
        start_id: Token that stands for an empty prompt; None refuses those.
        truncate: Whether a prompt that leaves no room loses its beginning; otherwise one that
            fills the context, or is larger than every bucket, is refused.
        buckets: Sizes of `P`.
        vocab_size: Prompts with an id of this or more are refused; None where there are none.
        num_first: Tokens at the beginning of each prompt that a truncated one keeps.

    Example:
        >>> tokens = tf.ragged.constant([[5, 6], [7]], dtype=tf.int32)
        >>> limit = tf.constant([8, 8])
        >>> prompt, status = make_prompt(
        ...     tokens, limit, context=16, start_id=0, truncate=False, buckets=(4,))
        >>> prompt.ids.numpy().tolist(), status.length.numpy().tolist()
        ([[0, 0, 5, 6], [0, 0, 0, 7]], [2, 1])
    """
    length = tf.cast(tokens.row_lengths(), tf.int32)  # [B]
    keep = length
    if truncate:
        # At least half of the context stays, however much is to be generated.
        most = tf.maximum(context - tf.maximum(max_new_tokens, 1), (context + 1) // 2)
        keep = tf.minimum(length, tf.minimum(most, buckets[-1]))
    refusal = tf.where((keep >= context) | (keep > buckets[-1]), TOO_LONG, 0)
    if vocab_size is not None:
        unknown = tf.reduce_any(tokens >= vocab_size, axis=1)  # [B]
        refusal = tf.where(unknown, UNKNOWN, refusal)
    keep = tf.where(refusal > 0, 0, keep)
    columns = round_up(tf.maximum(tf.reduce_max(tf.pad(keep, [[0, 1]])), 1), buckets)
    back = columns - tf.range(columns)  # [P], 1 in the last column
    mask = back[None, :] <= keep[:, None]  # [B, P]
    ends = tf.cast(tokens.row_splits[1:], tf.int32)  # [B]
    place = tf.where(mask, ends[:, None] - back[None, :], 0)  # [B, P]
    if num_first and truncate:
        column = keep[:, None] - back[None, :]  # [B, P], from the first token
        begins = tf.cast(tokens.row_splits[:-1], tf.int32)  # [B]
        place = tf.where(mask & (column < num_first), begins[:, None] + column, place)
    flat = tf.pad(tokens.flat_values, [[0, 1]])  # never empty
    ids = tf.where(mask, tf.gather(flat, place), 0)  # [B, P]
    empty = length == 0
    if start_id is None:
        refusal = tf.where(empty, EMPTY, refusal)
    else:
        first = empty[:, None] & (back == 1)[None, :]  # [B, P]
        ids, mask = tf.where(first, start_id, ids), mask | first
    mask = tf.cast(mask, tf.int32)
    dropped = tf.where(refusal > 0, 0, length - keep)
    status = PromptStatus(tf.reduce_sum(mask, axis=1), dropped, refusal)
    return Prompt(ids, mask), status


def prepend_token(prompt: Prompt, status: PromptStatus, token: int) -> tuple[Prompt, PromptStatus]:
    """Puts the last token of a prefix before each prompt, which may then be empty.

    The model reads it with the prompt, so that there is something to read.

    Args:
        prompt: Prompts without it, `[B, P]`.
        status: Their status.
        token: The token.

    Returns:
        Prompts with one column more, and their status; `length` counts the token.
    """
    ids, mask = (tf.pad(x, [[0, 0], [1, 0]]) for x in (prompt.ids, prompt.mask))
    column = tf.range(tf.shape(ids)[1])[None]  # [1, P + 1]
    here = column == tf.shape(prompt.ids)[1] - status.length[:, None]  # [B, P + 1]
    prompt = Prompt(tf.where(here, token, ids), tf.where(here, 1, mask))
    return prompt, status._replace(
        length=status.length + 1,
        refusal=tf.where(status.refusal == EMPTY, 0, status.refusal),
    )
