"""Base classes of logits processors, and the context that they see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import tensorflow as tf

from tfgpt2.generation.logits.vocab_ops import mark_ids
from tfgpt2.generation.options import Option
from tfgpt2.generation.params import option_rows

if TYPE_CHECKING:
    from tfgpt2.generation.params import SamplingParams


class ProcessorContext(NamedTuple):
    """The sequences whose next token is scored; `R` rows.

    Attributes:
        input_ids: int32 `[R, S]`, the prompt against the right edge of the first `P` columns, then
            what was generated; 0 elsewhere.
        mask: bool `[R, S]`, the columns that hold a token.
        prompt_columns: int32 `[]`, `P`.
        num_new_tokens: int32 `[R]`, tokens generated so far.
        max_new_tokens: int32 `[R]`, the most tokens of each row, at most the output buffer.
        params: The settings of each row.
    """

    input_ids: tf.Tensor
    mask: tf.Tensor
    prompt_columns: tf.Tensor
    num_new_tokens: tf.Tensor
    max_new_tokens: tf.Tensor
    params: SamplingParams

    @property
    def in_prompt(self) -> tf.Tensor:
        """The columns of the prompt: bool `[1, S]`."""
        return tf.range(tf.shape(self.input_ids)[1])[None] < self.prompt_columns

    @property
    def lengths(self) -> tf.Tensor:
        """Tokens of each row, the prompt's included: int32 `[R]`."""
        return tf.reduce_sum(tf.cast(self.mask, tf.int32), axis=1)

    def seen(self, where: tf.Tensor, vocab_size: int) -> tf.Tensor:
        """Marks the tokens that each row holds where bool `[R, S]` is True: bool `[R, V]`."""
        return mark_ids(tf.where(where, self.input_ids, -1), vocab_size)


class LogitsProcessor:
    """Changes the scores of a step, with one value per row.

    To add one, write a subclass in a file of its own, and one line in `pipeline.PROCESSORS`, whose
    order is the order of application:

        class Bonus(LogitsProcessor):
            option = Option("newline_bonus", 0.0, "own: added to the score of token 0, per row",
                            "float32", 0.0, -10, 10, "a number in [-10, 10]")

            def __call__(self, scores, value, context):
                first = tf.range(tf.shape(scores)[1]) == 0  # [V]
                return scores + tf.where(first, value[:, None], 0.0)

    With that, `GenerationConfig(newline_bonus=...)`, a value per row, range checks, clamping in
    graphs, and exports with `inputs=["newline_bonus"]` work.

    Attributes:
        option: The option, owned by the processor.
        skips: Whether it is skipped, at run time, in a batch where `active` is False for all rows:
            for those that many programs have and few requests use.
    """

    option: ClassVar[Option]
    skips: ClassVar[bool] = False

    def __call__(self, scores: tf.Tensor, value: Any, context: ProcessorContext) -> tf.Tensor:
        """Returns the changed scores.

        Args:
            scores: float32 `[R, V]`.
            value: What `values` returned, with `R` rows.
            context: The sequences so far.
        """
        raise NotImplementedError

    def is_asked(self, config: Any) -> bool:
        """Whether a configuration asks for anything: here, for another value than "off"."""
        return config.asks(self.option.name)

    def values(self, config: Any, rows: int, vocab_size: int) -> Any:
        """Checks the option's value in a configuration and lays it out, with 1 or `rows` rows.

        Raises:
            TypeError: The value has the wrong type.
            ValueError: It is out of range.
        """
        return option_rows(self.option, getattr(config, self.option.name), rows)

    def active(self, value: Any, context: ProcessorContext) -> tf.Tensor:
        """The rows whose scores change: bool `[R]`."""
        return value != self.option.off

    def apply(self, scores: tf.Tensor, value: Any, context: ProcessorContext) -> tf.Tensor:
        """Calls the processor; one that `skips` only if some row uses it."""
        if not self.skips:
            return self(scores, value, context)
        return tf.cond(
            tf.reduce_any(self.active(value, context)),
            lambda: self(scores, value, context),
            lambda: scores,
        )


class LogitsWarper(LogitsProcessor):
    """Rules out unlikely tokens of the rows that draw; applied after all other processors."""

    def keep(
        self, scores: tf.Tensor, value: tf.Tensor, min_tokens_to_keep: tf.Tensor | int
    ) -> tf.Tensor:
        """Marks the tokens that stay: bool `[R, V]`.

        Args:
            scores: float32 `[R, V]`.
            value: The option's value of each row, `[R]`.
            min_tokens_to_keep: int32 `[R]` or `[]`.
        """
        raise NotImplementedError
