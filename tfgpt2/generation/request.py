"""What is asked of the loop and what comes back: plain tensors, and what a program is made for.

Static is the `Program`, part of what is compiled. Dynamic is the rest: one value per row for
everything. A field that holds an empty tuple asks for nothing and costs nothing; the programs of
requests with other fields are other programs, while values never matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from tfgpt2.generation.stopping import StopStrings

if TYPE_CHECKING:
    from tfgpt2.generation.constraints.masking import Constraint
    from tfgpt2.generation.logits.history import SequenceBias

Nothing = tuple[()]


@dataclasses.dataclass(frozen=True)
class Program:
    """What a program is compiled for, beside its tensors.

    Attributes:
        returns: Texts per prompt; a prompt is read once for all of them.
        best_of: Texts per prompt that are decoded, of which the `returns` likeliest come back; 0
            is `returns`.
        beams: Texts that beam search follows at a time; 1 is no beam search.
        groups: Groups of beams that keep apart from each other.
        candidates: Tokens that contrastive search compares; 0 is no contrastive search.
        lookahead: Tokens guessed at a time in lookup and speculative decoding; 0 is neither.
        longest_match: Most tokens that must reappear for a guess from the text itself.
        top_logprobs: Likeliest tokens that each result reports.
        scores: Whether results hold every token's score after processing.
        logits: Whether results hold every token's logit.
        use_cache: False reads the whole text anew for each token.
        processors: A user's functions `(input_ids, attention_mask, scores) -> scores`, on tensors
            `[R, S]`, `[R, S]` and `[R, V]`.
        criteria: A user's functions `(input_ids, attention_mask) -> bool [R]`.
    """

    returns: int = 1
    best_of: int = 0
    beams: int = 1
    groups: int = 1
    candidates: int = 0
    lookahead: int = 0
    longest_match: int = 3
    top_logprobs: int = 0
    scores: bool = False
    logits: bool = False
    use_cache: bool = True
    processors: tuple[Callable[..., tf.Tensor], ...] = ()
    criteria: tuple[Callable[..., tf.Tensor], ...] = ()

    @property
    def texts(self) -> int:
        """Texts per prompt that have a row of their own in the loop."""
        return 1 if self.beams > 1 else max(self.returns, self.best_of)


class Decay(NamedTuple):
    """End tokens become likelier with length; see `processors.decay_length`.

    Attributes:
        start: int32 `[B]`, new tokens after which it begins.
        factor: float32 `[B]`.
    """

    start: tf.Tensor
    factor: tf.Tensor


class Request(NamedTuple):
    """What is asked of the loop, one value per row; `R` rows, `texts` for each prompt.

    Attributes:
        max_new_tokens: int32 `[R]`, 0 or more; a row's limit is also the size of the output.
        min_new_tokens: int32 `[R]`, tokens before an end token may come.
        temperature: float32 `[R]`, 0 or more; 0 takes the most likely token.
        top_k: int32 `[R]`; 0 is off.
        top_p: float32 `[R]` in [0, 1]; 1 is off.
        min_p: float32 `[R]` in [0, 1]; 0 is off.
        repetition_penalty: float32 `[R]`, above 0; 1 is off.
        seed: int64 `[R]`.
        eos: int32 `[R, E]`, ids that end the row; -1 is none.
        stops: Stop strings.
        typical_p: float32 `[R]` in (0, 1]; 1 is off.
        epsilon_cutoff: float32 `[R]` in [0, 1); 0 is off.
        eta_cutoff: float32 `[R]` in [0, 1); 0 is off.
        presence_penalty: float32 `[R]`; 0 is off.
        frequency_penalty: float32 `[R]`; 0 is off.
        encoder_repetition_penalty: float32 `[R]`, above 0; 1 is off.
        no_repeat_ngram_size: int32 `[R]`; 0 is off.
        encoder_no_repeat_ngram_size: int32 `[R]`; 0 is off.
        sequence_bias: What is added to tokens that complete a sequence.
        bad_words: Sequences that must not be completed; their bias is minus infinity.
        suppress_tokens: int32 `[R, U]`, ids that are never chosen; -1 is none.
        begin_suppress_tokens: int32 `[R, U]`, ids that are not chosen first.
        forced_bos_token_id: int32 `[R, 1]`, the token after a prompt of one token; -1 is none.
        forced_eos_token_id: int32 `[R, E]`, the last token that fits; -1 is none.
        decay: The exponential length penalty.
        remove_invalid_values: bool `[R]`.
        renormalize_logits: bool `[R]`.
        constraint: The automaton that the text must obey.
        guidance_scale: float32 `[R]`; 1 is off.
        penalty_alpha: float32 `[R]` in [0, 1], of contrastive search.
        length_penalty: float32 `[R]`, of beam search.
        early_stopping: int32 `[R]`, a code of `beam`.
        diversity_penalty: float32 `[R]`, of groups of beams.
        pad: int32 `[R]`, of groups of beams: what an ended one counts as having chosen.
    """

    max_new_tokens: tf.Tensor
    min_new_tokens: tf.Tensor
    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    min_p: tf.Tensor
    repetition_penalty: tf.Tensor
    seed: tf.Tensor
    eos: tf.Tensor
    stops: StopStrings | Nothing = ()
    typical_p: tf.Tensor | Nothing = ()
    epsilon_cutoff: tf.Tensor | Nothing = ()
    eta_cutoff: tf.Tensor | Nothing = ()
    presence_penalty: tf.Tensor | Nothing = ()
    frequency_penalty: tf.Tensor | Nothing = ()
    encoder_repetition_penalty: tf.Tensor | Nothing = ()
    no_repeat_ngram_size: tf.Tensor | Nothing = ()
    encoder_no_repeat_ngram_size: tf.Tensor | Nothing = ()
    sequence_bias: SequenceBias | Nothing = ()
    bad_words: SequenceBias | Nothing = ()
    suppress_tokens: tf.Tensor | Nothing = ()
    begin_suppress_tokens: tf.Tensor | Nothing = ()
    forced_bos_token_id: tf.Tensor | Nothing = ()
    forced_eos_token_id: tf.Tensor | Nothing = ()
    decay: Decay | Nothing = ()
    remove_invalid_values: tf.Tensor | Nothing = ()
    renormalize_logits: tf.Tensor | Nothing = ()
    constraint: Constraint | Nothing = ()
    guidance_scale: tf.Tensor | Nothing = ()
    penalty_alpha: tf.Tensor | Nothing = ()
    length_penalty: tf.Tensor | Nothing = ()
    early_stopping: tf.Tensor | Nothing = ()
    diversity_penalty: tf.Tensor | Nothing = ()
    pad: tf.Tensor | Nothing = ()


class Context(NamedTuple):
    """What a model reads where that is not just the ids of the prompt.

    Attributes:
        ids: int32 `[B, P]`, right-aligned: what is still to be read after the prefix.
        mask: int32 `[B, P]`.
        embeds: Float `[B, P, D]`, read in place of the ids.
        prefix: A `tfgpt2.nn.cache.Prefix` that was read before.
        encoder: A `tfgpt2.nn.cache.Encoder` to look at.
    """

    ids: tf.Tensor
    mask: tf.Tensor
    embeds: tf.Tensor | Nothing = ()
    prefix: Any = ()
    encoder: Any = ()


class Prompt(NamedTuple):
    """The texts to continue.

    Attributes:
        ids: int32 `[B, P]`, right-aligned: all tokens there are, those of a prefix included.
        mask: int32 `[B, P]`.
        context: What the model reads, where it is not just those.
        negative: Another `Prompt` that guidance leads away from.
    """

    ids: tf.Tensor
    mask: tf.Tensor
    context: Context | Nothing = ()
    negative: Any = ()


class History(NamedTuple):
    """All tokens of each row so far, without gaps between them.

    Attributes:
        ids: int32 `[R, S]`.
        mask: bool `[R, S]`, where there is one.
        prompt: How many of the columns belong to the prompt.
        count: int32 `[R]`, tokens since then.
    """

    ids: tf.Tensor
    mask: tf.Tensor
    prompt: tf.Tensor
    count: tf.Tensor


class Top(NamedTuple):
    """The likeliest tokens at each place, under the model's own distribution.

    Attributes:
        ids: int32 `[R, T, N]`.
        logprobs: float32 `[R, T, N]`, nats.
    """

    ids: tf.Tensor
    logprobs: tf.Tensor


class Result(NamedTuple):
    """What generation made; `R` rows, those of a prompt next to each other.

    Attributes:
        tokens: int32 `[R, T]`, the continuation, the end token included; 0 after it.
        logprobs: float32 `[R, T]`, nats of each token under the model's own distribution
            (before temperature and filters); 0 after the end.
        count: int32 `[R]`, tokens of each row.
        reason: int32 `[R]`, a code of `tfgpt2.generation.stopping`.
        cut: int32 `[R]`, bytes of text before a stop string; -1 without one.
        score: float32 `[R]` of beam search: the sum of processed log-probabilities after length
            penalty.
        parents: int32 `[R, T]` of beam search: the running text each token was appended to.
        top: The likeliest tokens.
        scores: float32 `[R, T, V]`, after processing.
        logits: float32 `[R, T, V]`.
        steps: int32 `[]`, how often the model was asked.
    """

    tokens: tf.Tensor
    logprobs: tf.Tensor
    count: tf.Tensor
    reason: tf.Tensor
    cut: tf.Tensor
    score: tf.Tensor | Nothing = ()
    parents: tf.Tensor | Nothing = ()
    top: Top | Nothing = ()
    scores: tf.Tensor | Nothing = ()
    logits: tf.Tensor | Nothing = ()
    steps: tf.Tensor | Nothing = ()
