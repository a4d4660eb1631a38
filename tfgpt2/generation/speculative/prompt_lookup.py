"""Prompt lookup: what followed the last tokens before is proposed again."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.logits.base import ProcessorContext
from tfgpt2.generation.params import DecodeSpec, Prompt, SamplingParams
from tfgpt2.generation.speculative.base import Draft


class PromptLookupProposer:
    """Proposes the tokens that followed an earlier occurrence of the last ones; a `DraftProposer`.

    Args:
        spec: `num_draft_tokens` are proposed where the last tokens, `max_matching_ngram_size` or
            fewer, occurred before.

    Source: Saxena 2023, "Prompt Lookup Decoding".
    """

    def __init__(self, spec: DecodeSpec) -> None:
        self._count, self._longest = spec.num_draft_tokens, spec.max_matching_ngram_size

    def start(self, prompt: Prompt, params: SamplingParams, columns: tf.Tensor) -> tuple[()]:
        """See `DraftProposer`; there is no state."""
        return ()

    def propose(
        self, memory: tuple[()], context: ProcessorContext, token: tf.Tensor, running: tf.Tensor
    ) -> Draft:
        """See `DraftProposer`."""
        place, found = last_match(context, self._longest)  # [R]
        end = context.prompt_columns + context.num_new_tokens  # [R], one after the last token
        # A text that repeats itself goes on repeating itself.
        period = tf.maximum(end - place - 1, 1)
        offset = tf.range(self._count)[None] % period[:, None]  # [R, G]
        column = tf.minimum(place[:, None] + 1 + offset, tf.shape(context.input_ids)[1] - 1)
        tokens = tf.gather(context.input_ids, column, batch_dims=1)  # [R, G]
        return Draft(tokens, tf.reduce_any(found & running), ())

    def rollback(self, memory: tuple[()], before: tuple[()], kept: tf.Tensor) -> tuple[()]:
        """See `DraftProposer`."""
        return ()


def last_match(context: ProcessorContext, longest: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds where the last tokens of each sequence occurred before.

    Args:
        context: The sequences.
        longest: Most tokens to compare; of the places with as many equal ones, the last counts.

    Returns:
        int32 `[R]`, the column where the earlier occurrence ends, and bool `[R]`, whether there
        is one of at least one token.
    """
    ids = tf.where(context.mask, context.input_ids, -1)  # [R, S]
    size = tf.shape(ids)[1]
    columns = tf.range(size)[None]  # [1, S]
    end = (context.prompt_columns + context.num_new_tokens)[:, None]  # [R, 1]
    same = tf.ones_like(ids, tf.bool) & (columns < end - 1)  # [R, S]
    length = tf.zeros_like(ids)  # [R, S], tokens that are equal up to a column
    for back in range(longest):
        token = tf.gather(ids, tf.maximum(end - 1 - back, 0), batch_dims=1)  # [R, 1]
        shifted = tf.pad(ids, [[0, 0], [back, 0]], constant_values=-1)[:, :size]  # [R, S]
        same &= (shifted == token) & (shifted >= 0)
        length += tf.cast(same, tf.int32)
    key = tf.where(length > 0, length * size + columns, -1)  # [R, S]
    best = tf.reduce_max(key, axis=1)
    return tf.maximum(best, 0) % size, best >= 0
