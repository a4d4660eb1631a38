"""The logits processors as objects that are called on scores, named as in transformers.

`generate` takes them in `logits_processor`, and so does it a program's own subclasses of
`TFLogitsProcessor`. Those that slice `input_ids[:, :cur_len]` need `jit_compile=False`: `cur_len`
is a tensor in a compiled program.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation.logits.base import LogitsWarper, ProcessorContext
from tfgpt2.generation.logits.bias import bad_word_biases, lay_out_biases
from tfgpt2.generation.logits.history import history_end
from tfgpt2.generation.logits.pipeline import PROCESSORS
from tfgpt2.generation.logits.vocab_ops import RULED_OUT
from tfgpt2.generation.params import SamplingParams, broadcast_rows, option_rows

_BY_OPTION = {processor.option.name: processor for processor in PROCESSORS}


class TFLogitsProcessor:
    """Base class of functions that change the scores of a step."""

    def __call__(self, input_ids: tf.Tensor, scores: tf.Tensor, cur_len: Any = None) -> tf.Tensor:
        """Returns the changed scores.

        Args:
            input_ids: int32 `[B, S]`; columns from `cur_len` on are not read.
            scores: float32 `[B, V]`.
            cur_len: Tokens so far; None is `S`.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no __call__.")


class TFLogitsWarper(TFLogitsProcessor):
    """Base class of functions that shape the distribution that tokens are drawn from."""


class TFLogitsProcessorList(list):
    """A list of processors, called one after the other."""

    def __call__(
        self, input_ids: tf.Tensor, scores: tf.Tensor, cur_len: Any = None, **kwargs: Any
    ) -> tf.Tensor:
        """Returns the scores after all processors; see `TFLogitsProcessor`."""
        for processor in self:
            known = inspect.signature(processor.__call__).parameters
            more = {name: value for name, value in kwargs.items() if name in known}
            scores = processor(input_ids, scores, cur_len, **more)
        return scores


class OptionProcessor(TFLogitsProcessor):
    """A processor that does what an option of `generate` does.

    A subclass names the option, and sets `value`.
    """

    option: str
    value: Any = None
    eos: tuple[int, ...] = (-1,)
    filter_value = -float("inf")
    min_tokens_to_keep = 1

    def rows(self, count: int | tf.Tensor, vocab_size: int) -> Any:
        """The option's value, with 1 or `count` rows."""
        return option_rows(_BY_OPTION[self.option].option, self.value, 1)

    def place(self, length: tf.Tensor) -> tuple[tf.Tensor | int, tf.Tensor | int]:
        """New tokens so far, and the most there are, of rows with so many tokens."""
        return length, 2**30

    def __call__(self, input_ids: tf.Tensor, scores: tf.Tensor, cur_len: Any = None) -> tf.Tensor:
        """See `TFLogitsProcessor`."""
        ids, scores = tf.cast(input_ids, tf.int32), tf.convert_to_tensor(scores, tf.float32)
        count, columns = tf.unstack(tf.shape(ids))
        length = columns if cur_len is None else tf.cast(cur_len, tf.int32)
        new, most = self.place(length)
        processor = _BY_OPTION[self.option]
        context = ProcessorContext(
            input_ids=ids,
            mask=tf.broadcast_to(tf.range(columns) < length, [count, columns]),
            prompt_columns=tf.constant(0),
            num_new_tokens=tf.broadcast_to(new, [count]),
            max_new_tokens=tf.broadcast_to(most, [count]),
            params=SamplingParams((), (), tf.constant([self.eos or (-1,)]), {}),
        )
        value = broadcast_rows(self.rows(count, scores.shape[-1]), count)
        if isinstance(processor, LogitsWarper) and self.option != "temperature":
            kept = processor.keep(scores, value, self.min_tokens_to_keep)
            return tf.where(kept, scores, self.filter_value)
        changed = processor(scores, value, context)
        return tf.where(changed <= RULED_OUT, -float("inf"), changed)


class TFTemperatureLogitsWarper(OptionProcessor, TFLogitsWarper):
    """Divides scores by `temperature`, a number above 0."""

    option = "temperature"

    def __init__(self, temperature: float) -> None:
        self.temperature = self.value = positive("temperature", temperature)


class Filter(OptionProcessor, TFLogitsWarper):
    """A filter of unlikely tokens."""

    def _set(self, name: str, value: Any, filter_value: float, least: int) -> None:
        setattr(self, name, value)
        self.value, self.filter_value, self.min_tokens_to_keep = value, filter_value, least
        option_rows(_BY_OPTION[self.option].option, value, 1)  # checks it


class TFTopKLogitsWarper(Filter):
    """Keeps the `top_k` likeliest tokens."""

    option = "top_k"

    def __init__(
        self, top_k: int, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1
    ) -> None:
        top_k = max(positive("top_k", top_k), min_tokens_to_keep)
        self._set("top_k", top_k, filter_value, min_tokens_to_keep)


class TFTopPLogitsWarper(Filter):
    """Keeps the likeliest tokens that together have the probability `top_p`."""

    option = "top_p"

    def __init__(
        self, top_p: float, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1
    ) -> None:
        self._set("top_p", top_p, filter_value, min_tokens_to_keep)


class TFMinLengthLogitsProcessor(OptionProcessor):
    """Forbids end tokens in texts of fewer than `min_length` tokens, the prompt's included."""

    option = "min_new_tokens"

    def __init__(self, min_length: int, eos_token_id: Any) -> None:
        self.min_length = self.value = min_length
        self.eos_token_id, self.eos = eos_token_id, ids_of(eos_token_id)


class TFRepetitionPenaltyLogitsProcessor(OptionProcessor):
    """Makes tokens of the text less likely, by the factor `penalty`."""

    option = "repetition_penalty"

    def __init__(self, penalty: float) -> None:
        self.penalty = self.value = positive("penalty", penalty)


class TFNoRepeatNGramLogitsProcessor(OptionProcessor):
    """Forbids sequences of `ngram_size` tokens that the text holds already."""

    option = "no_repeat_ngram_size"

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = self.value = positive("ngram_size", ngram_size)


class TFNoBadWordsLogitsProcessor(OptionProcessor):
    """Forbids sequences of tokens."""

    option = "bad_words_ids"

    def __init__(self, bad_words_ids: list[list[int]], eos_token_id: Any = None) -> None:
        if not bad_words_ids or not all(isinstance(word, list) for word in bad_words_ids):
            raise value_error(
                "`bad_words_ids` must be a list of lists of ids.",
                fix="For example [[5], [7, 8]].",
                bad_words_ids=bad_words_ids,
            )
        self.bad_word_ids, self.eos = bad_words_ids, ids_of(eos_token_id)

    def rows(self, count: int | tf.Tensor, vocab_size: int) -> Any:
        """See `OptionProcessor`."""
        return lay_out_biases([bad_word_biases(self.bad_word_ids, self.eos)])


class _Listed(OptionProcessor):
    """A processor of listed ids."""

    ids: list[int]

    def rows(self, count: int | tf.Tensor, vocab_size: int) -> tf.Tensor:
        """See `OptionProcessor`; ids beyond the vocabulary are none."""
        return tf.constant([[one if one < vocab_size else -1 for one in self.ids] or [-1]])


class TFSuppressTokensLogitsProcessor(_Listed):
    """Forbids tokens."""

    option = "suppress_tokens"

    def __init__(self, suppress_tokens: Any) -> None:
        self.suppress_tokens = self.ids = list(suppress_tokens)


class TFSuppressTokensAtBeginLogitsProcessor(_Listed):
    """Forbids tokens where a text has `begin_index` tokens."""

    option = "begin_suppress_tokens"

    def __init__(self, begin_suppress_tokens: Any, begin_index: int) -> None:
        self.begin_suppress_tokens = self.ids = list(begin_suppress_tokens)
        self.begin_index = begin_index

    def place(self, length: tf.Tensor) -> tuple[tf.Tensor | int, tf.Tensor | int]:
        """See `OptionProcessor`."""
        return length - self.begin_index, 2**30


class TFForcedBOSTokenLogitsProcessor(_Listed):
    """Forces the token after a first one."""

    option = "forced_bos_token_id"

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id, self.ids = bos_token_id, list(ids_of(bos_token_id))


class TFForcedEOSTokenLogitsProcessor(_Listed):
    """Forces the last token of a text of `max_length` tokens."""

    option = "forced_eos_token_id"

    def __init__(self, max_length: int, eos_token_id: Any, device: Any = None) -> None:
        self.max_length, self.eos_token_id = max_length, eos_token_id
        self.ids = list(ids_of(eos_token_id))

    def place(self, length: tf.Tensor) -> tuple[tf.Tensor | int, tf.Tensor | int]:
        """See `OptionProcessor`."""
        return length, self.max_length


class TFForceTokensLogitsProcessor(TFLogitsProcessor):
    """Forces tokens at places: pairs of a number of tokens, and the id that follows them."""

    def __init__(self, force_token_map: Any) -> None:
        self.force_token_map = {int(place): token for place, token in dict(force_token_map).items()}

    def __call__(self, input_ids: tf.Tensor, scores: tf.Tensor, cur_len: Any = None) -> tf.Tensor:
        """See `TFLogitsProcessor`."""
        length = tf.shape(input_ids)[1] if cur_len is None else cur_len
        known = {place: token for place, token in self.force_token_map.items() if token is not None}
        for place, token in known.items():
            only = tf.where(tf.range(scores.shape[-1])[None] == token, 0.0, -float("inf"))
            scores = tf.where(tf.equal(length, place), only, scores)
        return scores


@dataclasses.dataclass(frozen=True)
class AdaptedProcessor:
    """A `TFLogitsProcessor` with the signature of this package's own functions.

    Equal where it adapts the same object, so that a call with it again compiles nothing.

    Attributes:
        processor: The processor.
    """

    processor: TFLogitsProcessor

    def __call__(
        self, input_ids: tf.Tensor, attention_mask: tf.Tensor, scores: tf.Tensor
    ) -> tf.Tensor:
        """Calls it on texts that begin in the first column, the longest of them."""
        mask = attention_mask > 0  # [R, S]
        length = tf.reduce_max(tf.reduce_sum(tf.cast(mask, tf.int32), axis=1))
        unused = tf.reduce_max(history_end(mask)) - length  # columns left of all texts
        ids = tf.roll(input_ids, -unused, axis=1)
        return self.processor(ids, scores, length)


def adapt(function: Any) -> Any:
    """Returns a function `(input_ids, attention_mask, scores)` for what a user passes."""
    return AdaptedProcessor(function) if isinstance(function, TFLogitsProcessor) else function


def ids_of(value: Any) -> tuple[int, ...]:
    """One id, several or None, as a tuple."""
    ids = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
    return tuple(int(one) for one in ids if one is not None)


def positive(name: str, value: Any) -> Any:
    """Returns a number above 0, the argument of that name, or raises."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise value_error(f"`{name}` must be above 0.", fix="Pass 1 or more.", **{name: value})
    return value
