"""Base class of decoding strategies, their task, and the interface of the model."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol

import tensorflow as tf

from tfgpt2.generation.constraints import masking
from tfgpt2.generation.logits.base import ProcessorContext
from tfgpt2.generation.logits.pipeline import apply_constraint, apply_processors
from tfgpt2.generation.options import Option
from tfgpt2.generation.params import DecodeSpec, Prompt, SamplingParams
from tfgpt2.generation.results import Result
from tfgpt2.generation.speculative.base import DraftProposer
from tfgpt2.generation.stopping import TokenBytes


class LanguageModel(Protocol):
    """Interface of the model; see `TFGPT2LMHeadModel` for the shapes.

    Contrastive search also calls `prefill_hidden`, `decode_hidden` and `score`.
    """

    def prefill(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """Reads prompts into a fresh cache; returns the next token's logits and the cache."""
        ...

    def decode_step(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: Any, *, in_place: bool
    ) -> tuple[tf.Tensor, Any]:
        """Reads more tokens; returns logits and the longer cache."""
        ...

    def rollback(self, cache: Any, before: Any, kept: tf.Tensor, *, width: int) -> Any:
        """Keeps the first `kept` of the tokens read since `before`; for draft tokens only."""
        ...


@dataclasses.dataclass(frozen=True)
class DecodeTask:
    """Loop invariants of a generation.

    Attributes:
        model: The model.
        prompt: The sequences to continue, `B` rows.
        params: The settings of each row, `spec.rows_per_prompt` for each prompt: `R` rows.
        spec: What the program is compiled for.
        output_buffer: Any `[R, T]` tensor, `T >= 1`: its shape is the most tokens a row can get.
        token_bytes: Bytes of every token, where there are stop strings.
        proposer: Proposes draft tokens, where `spec.num_draft_tokens` is above 0.
        in_place: Compiled by XLA; see `tfgpt2.nn.kv_cache.write`.
    """

    model: Any
    prompt: Prompt
    params: SamplingParams
    spec: DecodeSpec
    output_buffer: tf.Tensor
    token_bytes: TokenBytes | None = None
    proposer: DraftProposer | None = None
    in_place: bool = False

    @property
    def max_new_tokens(self) -> tf.Tensor:
        """int32 `[R]`, the most tokens of each row that fit the output buffer."""
        return tf.minimum(self.params.max_new_tokens, tf.shape(self.output_buffer)[1])

    def context(
        self, tokens: tf.Tensor, count: tf.Tensor, params: SamplingParams, copies: tf.Tensor | int
    ) -> ProcessorContext:
        """The prompts joined with what was generated.

        Args:
            tokens: int32 `[R, T]`; `R` is `B * copies`, the sequences of a prompt side by side.
            count: int32 `[R]`, how many of the `T` are written.
            params: The settings of each of the `R` rows.
            copies: Sequences of each prompt.
        """
        ids, mask = self.prompt.ids, self.prompt.mask  # [B, P]
        if not isinstance(copies, int) or copies > 1:
            ids, mask = (tf.repeat(x, copies, axis=0) for x in (ids, mask))  # [R, P]
        written = tf.range(tf.shape(tokens)[1])[None] < count[:, None]  # [R, T]
        return ProcessorContext(
            input_ids=tf.concat([ids, tf.where(written, tokens, 0)], axis=1),  # [R, S]
            mask=tf.concat([mask > 0, written], axis=1),  # [R, S]
            prompt_columns=tf.shape(ids)[1],
            num_new_tokens=count,
            max_new_tokens=tf.minimum(params.max_new_tokens, tf.shape(self.output_buffer)[1]),
            params=params,
        )

    def process(self, logits: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        """Applies processors and constraint, the automaton's state following from the tokens.

        For searches, whose sequences change rows; `sampling` carries the state instead.
        """
        scores = apply_processors(logits, context, self.spec)
        constraint, first = context.params.constraint, context.prompt_columns
        if not constraint:
            return scores
        written = context.num_new_tokens[0]  # the same for all sequences of a search
        _, state = tf.while_loop(
            lambda step, state: step < written,
            lambda step, state: (
                step + 1,
                masking.advance(constraint, state, context.input_ids[:, first + step]),
            ),
            (tf.constant(0), constraint.start),
        )
        return apply_constraint(scores, logits, context, state)


class Strategy:
    """A way to choose the next tokens: a frozen dataclass of the sizes its program is compiled for.

    To add one, write a subclass in a file of its own, and one line in `registry.STRATEGIES`, where
    the first that matches a configuration is taken.

    Attributes:
        name: Its name in errors, such as `"beam search"`.
        options: Options with one value per row that it alone reads, by `params.options`.
        sampling_options: Options of sampling that act although `do_sample` is off.
        takes_sampling_options: Whether a request may ask for draws.
        one_row_per_sequence: Whether each of `num_return_sequences` has a row of its own; a search
            has one row per prompt.
        streams: Whether a sequence can be given out while it grows, for streams and deadlines.
        takes_draft_tokens: Whether speculative decoding works.
        takes_constraints: Whether `choices`, `regex` and `json_schema` work.
        takes_guidance: Whether `guidance_scale` works.
        takes_prefix: Whether a prompt may begin with a prefix that was read before.
        reports_top_logprobs: Whether results can hold the likeliest tokens of each position.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = ()
    sampling_options: ClassVar[tuple[str, ...]] = ()
    takes_sampling_options: ClassVar[bool] = True
    one_row_per_sequence: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    takes_draft_tokens: ClassVar[bool] = False
    takes_constraints: ClassVar[bool] = True
    takes_guidance: ClassVar[bool] = True
    takes_prefix: ClassVar[bool] = True
    reports_top_logprobs: ClassVar[bool] = False

    @classmethod
    def matches(cls, config: Any) -> bool:
        """Whether a `GenerationConfig` asks for this strategy."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Any, vocab_size: int) -> Strategy:
        """Returns the strategy with the sizes that a configuration asks for."""
        return cls()

    @classmethod
    def contradictions(cls, config: Any) -> list[tuple[Any, str, str, tuple[str, ...]]]:
        """Options that contradict the strategy.

        Returns:
            For each: whether it occurs, what is wrong, how to fix it, and the options to show.
        """
        return []

    @classmethod
    def max_sequences(cls, config: Any) -> int | None:
        """The most sequences a prompt can have; None for any number."""
        return 1

    @classmethod
    def option_values(cls, config: Any) -> dict[str, Any]:
        """The values of `options`: a number, or one per row, for each."""
        return {option.name: getattr(config, option.name) for option in cls.options}

    def run(self, task: DecodeTask) -> Result:
        """Generates; `spec.num_return_sequences` rows for each prompt."""
        raise NotImplementedError
