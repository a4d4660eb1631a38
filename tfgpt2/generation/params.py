"""The parameters of a request: `DecodeSpec` is static, `SamplingParams` and `Prompt` are tensors.

Static is the `DecodeSpec`, part of what is compiled. Dynamic is the rest: one value per row for
everything. An option that `SamplingParams.options` does not hold asks for nothing and costs
nothing; requests with other options run other programs, while values never matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.generation.constraints.masking import Constraint
from tfgpt2.generation.option_values import row_values
from tfgpt2.generation.options import Option
from tfgpt2.generation.stopping import StopStrings

Nothing = tuple[()]


class SamplingParams(NamedTuple):
    """The settings of each row; `R` rows.

    Attributes:
        max_new_tokens: int32 `[R]`, 0 or more; the output buffer is a limit, too.
        seed: int64 `[R]`.
        eos_token_ids: int32 `[R, E]`, ids that end the row; -1 is none.
        options: By name, the values of the options that the program has: those of
            `logits.pipeline.PROCESSORS`, of `guidance` and of the strategy. A tensor `[R]`, or
            what the option's owner makes of it.
        stop_strings: Stop strings.
        constraint: The automata that the texts must obey.
    """

    max_new_tokens: tf.Tensor
    seed: tf.Tensor
    eos_token_ids: tf.Tensor
    options: Mapping[str, Any]
    stop_strings: StopStrings | Nothing = ()
    constraint: Constraint | Nothing = ()


@dataclasses.dataclass(frozen=True)
class DecodeSpec:
    """The static part of a request: what its program is compiled for.

    Attributes:
        strategy: The decoding strategy with its sizes, of `strategies.STRATEGIES`.
        num_return_sequences: Sequences per prompt; a prompt is read once for all of them.
        best_of: Sequences per prompt that are decoded, of which the likeliest
            `num_return_sequences` are returned; 0 is `num_return_sequences`.
        num_draft_tokens: Draft tokens per round of speculative decoding; 0 is none.
        max_matching_ngram_size: Most tokens that must reappear for a draft from the text itself.
        top_logprobs: Likeliest tokens reported per position.
        output_scores: Whether results hold the scores of all tokens after processing.
        output_logits: Whether results hold the logits of all tokens.
        use_cache: False reads the whole sequence again for each token.
        logits_processors: A user's functions `(input_ids, attention_mask, scores) -> scores`, on
            tensors `[R, S]`, `[R, S]` and `[R, V]`.
        stopping_criteria: A user's functions `(input_ids, attention_mask) -> bool [R]`.
    """

    strategy: Any
    num_return_sequences: int = 1
    best_of: int = 0
    num_draft_tokens: int = 0
    max_matching_ngram_size: int = 3
    top_logprobs: int = 0
    output_scores: bool = False
    output_logits: bool = False
    use_cache: bool = True
    logits_processors: tuple[Callable[..., tf.Tensor], ...] = ()
    stopping_criteria: tuple[Callable[..., tf.Tensor], ...] = ()

    @property
    def rows_per_prompt(self) -> int:
        """Rows of `SamplingParams` for each prompt."""
        several = max(self.num_return_sequences, self.best_of)
        return several if self.strategy.one_row_per_sequence else 1


class PromptContext(NamedTuple):
    """Model inputs of a prompt that is not just ids.

    Attributes:
        ids: int32 `[B, P]`, right-aligned: what is still to be read after the prefix.
        mask: int32 `[B, P]`.
        embeds: Float `[B, P, D]`, read in place of the ids.
        prefix: A `tfgpt2.nn.kv_cache.Prefix` that was read before.
        encoder: A `tfgpt2.nn.kv_cache.Encoder` for cross-attention.
        token_types: int32 `[B, P]`; what is generated has the type of the last token.
    """

    ids: tf.Tensor
    mask: tf.Tensor
    embeds: tf.Tensor | Nothing = ()
    prefix: Any = ()
    encoder: Any = ()
    token_types: tf.Tensor | Nothing = ()


class Prompt(NamedTuple):
    """The sequences to continue.

    Attributes:
        ids: int32 `[B, P]`, right-aligned: all tokens there are, those of a prefix included.
        mask: int32 `[B, P]`.
        context: What the model reads, where it is not just those.
        negative: Another `Prompt` that guidance leads away from.
    """

    ids: tf.Tensor
    mask: tf.Tensor
    context: PromptContext | Nothing = ()
    negative: Any = ()


def option_rows(option: Option, value: Any, rows: int) -> tf.Tensor:
    """`option_values.row_values` as a tensor `[B]`."""
    return tf.constant(row_values(option, value, rows))  # [B]


def clamp(option: Option, value: tf.Tensor) -> tf.Tensor:
    """Moves values that only a tensor knows into the option's range; NaN means "off"."""
    value = tf.cast(value, option.dtype)
    if value.dtype == tf.bool:
        return value
    if value.dtype.is_floating:
        value = tf.where(tf.math.is_nan(value), tf.cast(option.off, value.dtype), value)
    return tf.clip_by_value(
        value, tf.cast(option.low, value.dtype), tf.cast(option.high, value.dtype)
    )


def broadcast_rows(tree: Any, rows: tf.Tensor | int, copies: int = 1) -> Any:
    """Gives tensors with 1 or `B` rows `B * copies` rows, those of a prompt side by side."""

    def broadcast(x: tf.Tensor) -> tf.Tensor:
        if isinstance(rows, int) and x.shape[0] == rows:
            return x
        return tf.broadcast_to(x, tf.concat([[rows], tf.shape(x)[1:]], axis=0))

    tree = _map_rows(tree, broadcast)
    return repeat_rows(tree, copies) if copies > 1 else tree


def repeat_rows(tree: Any, copies: tf.Tensor | int) -> Any:
    """`[B, ...]` -> `[B * copies, ...]`, the rows of a prompt side by side."""
    return _map_rows(tree, lambda x: tf.repeat(x, copies, axis=0))


def _map_rows(tree: Any, change: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    """Changes every tensor that has rows; the automata of a constraint are for all of them."""
    if isinstance(tree, Constraint):
        return tree._replace(start=change(tree.start))
    if isinstance(tree, Mapping):
        return {name: _map_rows(one, change) for name, one in tree.items()}
    if isinstance(tree, tuple):  # a NamedTuple, or nothing
        return type(tree)(*(_map_rows(one, change) for one in tree)) if tree else tree
    return change(tree)


def sequence_seeds(seed: tf.Tensor, sequences: int) -> tf.Tensor:
    """Gives each sequence of a prompt its own seed: int64 `[B]` -> `[B * sequences]`.

    The first has the prompt's; the others are far from those of neighbouring prompts.

    Example:
        >>> sequence_seeds(tf.constant([5, 6], tf.int64), 2).numpy().tolist()
        [5, 1099511627781, 6, 1099511627782]
    """
    further = tf.range(sequences, dtype=tf.int64) * 2**40
    seeds = tf.bitwise.bitwise_and(seed[:, None] + further, tf.int64.max)  # [B, sequences]
    return tf.reshape(seeds, [-1])
