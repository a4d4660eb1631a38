"""Logits processors that transformers has for PyTorch only, and the PyTorch names of the others.

They are called on scores, as those of `callables`, and `generate` takes them likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfgpt2.generation.logits import callables
from tfgpt2.generation.logits.bias import lay_out_biases, read_biases
from tfgpt2.generation.logits.callables import (
    Filter,
    OptionProcessor,
    TFLogitsProcessor,
    ids_of,
    positive,
)
from tfgpt2.generation.logits.length import Decay
from tfgpt2.generation.logits.ngrams import forbid_repeated_ngrams
from tfgpt2.generation.logits.penalties import penalize_repetition
from tfgpt2.generation.logits.vocab_ops import RULED_OUT, mark_ids


class MinPLogitsWarper(Filter):
    """Keeps tokens of at least `min_p` times the probability of the likeliest."""

    option = "min_p"

    def __init__(
        self, min_p: float, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1
    ) -> None:
        self._set("min_p", min_p, filter_value, min_tokens_to_keep)


class TypicalLogitsWarper(Filter):
    """Keeps the most typical tokens that together have the probability `mass`."""

    option = "typical_p"

    def __init__(
        self, mass: float = 0.9, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1
    ) -> None:
        self._set("mass", mass, filter_value, min_tokens_to_keep)


class EpsilonLogitsWarper(Filter):
    """Keeps tokens of at least the probability `epsilon`."""

    option = "epsilon_cutoff"

    def __init__(
        self, epsilon: float, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1
    ) -> None:
        self._set("epsilon", epsilon, filter_value, min_tokens_to_keep)


class EtaLogitsWarper(Filter):
    """Keeps tokens of at least a probability that depends on `epsilon` and the entropy."""

    option = "eta_cutoff"

    def __init__(
        self, epsilon: float, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1
    ) -> None:
        self._set("epsilon", epsilon, filter_value, min_tokens_to_keep)


class MinNewTokensLengthLogitsProcessor(OptionProcessor):
    """Forbids end tokens until there are `min_new_tokens` after the prompt."""

    option = "min_new_tokens"

    def __init__(self, prompt_length_to_skip: int, min_new_tokens: int, eos_token_id: Any) -> None:
        self.prompt_length_to_skip, self.min_new_tokens = prompt_length_to_skip, min_new_tokens
        self.value = prompt_length_to_skip + min_new_tokens
        self.eos_token_id, self.eos = eos_token_id, ids_of(eos_token_id)


class SequenceBiasLogitsProcessor(OptionProcessor):
    """Adds a bias to the last token of each of some sequences."""

    option = "sequence_bias"

    def __init__(self, sequence_bias: Any) -> None:
        pairs = sequence_bias
        pairs = pairs.items() if isinstance(pairs, Mapping) else pairs
        self.sequence_bias = {tuple(sequence): bias for sequence, bias in pairs}

    def rows(self, count: int | tf.Tensor, vocab_size: int) -> Any:
        """See `OptionProcessor`."""
        return lay_out_biases(read_biases(self.sequence_bias, 1, vocab_size))


class ExponentialDecayLengthPenalty(OptionProcessor):
    """Makes end tokens likelier with each token past a place after the prompt.

    Args:
        exponential_decay_length_penalty: New tokens after which it begins, and the factor.
        eos_token_id: The end token, or several.
        input_ids_seq_length: Tokens of the prompt.
    """

    option = "exponential_decay_length_penalty"

    def __init__(
        self,
        exponential_decay_length_penalty: tuple[int, float],
        eos_token_id: Any,
        input_ids_seq_length: int,
    ) -> None:
        start, factor = exponential_decay_length_penalty
        self.regulation_start = start + input_ids_seq_length
        self.regulation_factor = positive("decay_factor", factor)
        self.eos_token_id, self.eos = eos_token_id, ids_of(eos_token_id)

    def rows(self, count: int | tf.Tensor, vocab_size: int) -> Decay:
        """See `OptionProcessor`."""
        return Decay(tf.constant([self.regulation_start]), tf.constant([self.regulation_factor]))


class EncoderRepetitionPenaltyLogitsProcessor(TFLogitsProcessor):
    """Makes the tokens of a prompt likelier, by the factor `penalty`.

    Args:
        penalty: The factor; below 1 they become less likely.
        encoder_input_ids: The prompt, int `[B, P]`.
    """

    def __init__(self, penalty: float, encoder_input_ids: Any) -> None:
        self.penalty = 1 / positive("penalty", penalty)
        self.encoder_input_ids = encoder_input_ids

    def __call__(self, input_ids: tf.Tensor, scores: tf.Tensor, cur_len: Any = None) -> tf.Tensor:
        """See `TFLogitsProcessor`."""
        prompt = _prompt_of_rows(self.encoder_input_ids, input_ids)  # [R, P]
        seen = mark_ids(prompt, scores.shape[-1])  # [R, V]
        return penalize_repetition(scores, seen, tf.constant([self.penalty], scores.dtype))


class EncoderNoRepeatNGramLogitsProcessor(TFLogitsProcessor):
    """Forbids sequences of `encoder_ngram_size` tokens that a prompt holds.

    Args:
        encoder_ngram_size: Tokens of a sequence.
        encoder_input_ids: The prompt, int `[B, P]` or `[P]`.
    """

    def __init__(self, encoder_ngram_size: int, encoder_input_ids: Any) -> None:
        self.ngram_size = positive("encoder_ngram_size", encoder_ngram_size)
        self.encoder_input_ids = encoder_input_ids

    def __call__(self, input_ids: tf.Tensor, scores: tf.Tensor, cur_len: Any = None) -> tf.Tensor:
        """See `TFLogitsProcessor`."""
        ids = tf.cast(input_ids, tf.int32)  # [R, S]
        prompt = _prompt_of_rows(self.encoder_input_ids, ids)  # [R, P]
        columns = tf.shape(ids)[1]
        length = columns if cur_len is None else tf.cast(cur_len, tf.int32)
        # The text stands behind the prompt, whose sequences alone are compared with its end.
        written = tf.sequence_mask(tf.fill([tf.shape(ids)[0]], length), columns)  # [R, S]
        inside = tf.concat([prompt >= 0, written], axis=1)
        source = tf.concat([prompt >= 0, tf.zeros_like(ids, tf.bool)], axis=1)
        size = tf.fill([tf.shape(ids)[0]], self.ngram_size)
        both = tf.concat([prompt, ids], axis=1)  # [R, P + S]
        found = forbid_repeated_ngrams(scores, both, inside, size, source)
        found = tf.where(found <= RULED_OUT, -float("inf"), found)
        return tf.where(length + 1 >= self.ngram_size, found, scores)


def _prompt_of_rows(prompt: Any, input_ids: tf.Tensor) -> tf.Tensor:
    """A prompt, or one for each text, as int32 `[R, P]`: those of beams stand side by side."""
    prompt = tf.cast(tf.convert_to_tensor(prompt), tf.int32)
    prompt = prompt[None] if prompt.shape.rank == 1 else prompt  # [B, P]
    return tf.repeat(prompt, tf.shape(input_ids)[0] // tf.shape(prompt)[0], axis=0)


# The same classes under the names of transformers' PyTorch side, which configuration code uses.
TemperatureLogitsWarper = callables.TFTemperatureLogitsWarper
TopKLogitsWarper = callables.TFTopKLogitsWarper
TopPLogitsWarper = callables.TFTopPLogitsWarper
MinLengthLogitsProcessor = callables.TFMinLengthLogitsProcessor
RepetitionPenaltyLogitsProcessor = callables.TFRepetitionPenaltyLogitsProcessor
NoRepeatNGramLogitsProcessor = callables.TFNoRepeatNGramLogitsProcessor
NoBadWordsLogitsProcessor = callables.TFNoBadWordsLogitsProcessor
SuppressTokensLogitsProcessor = callables.TFSuppressTokensLogitsProcessor
SuppressTokensAtBeginLogitsProcessor = callables.TFSuppressTokensAtBeginLogitsProcessor
ForcedBOSTokenLogitsProcessor = callables.TFForcedBOSTokenLogitsProcessor
ForcedEOSTokenLogitsProcessor = callables.TFForcedEOSTokenLogitsProcessor
LogitsProcessor = callables.TFLogitsProcessor
LogitsProcessorList = callables.TFLogitsProcessorList
