"""What is done to a step's logits before a token is drawn; one value per row for everything.

Each function is pure and has a value that means "off", which leaves a row's logits as they are,
bit by bit. What looks at the order of earlier tokens is in `history`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfgpt2.generation.logits.sampling import (
    argmax,
    gumbel,
    keep_epsilon,
    keep_eta,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
)
from tfgpt2.generation.logits.vocab_ops import count, mark
from tfgpt2.nn.attention import MASK_VALUE

# A temperature below it acts like it: the most likely token, and no overflow on the way.
_COLDEST = 1e-6
# A logit below it was ruled out, whatever else was done to it.
_FORBIDDEN = MASK_VALUE / 1e6


class Warping(NamedTuple):
    """How a distribution is reshaped before a token is drawn from it.

    Each field is a `[B]` tensor, or a `[]` one for all rows; the defaults are "off".

    Attributes:
        temperature: float32, 0 or more; 0 leaves the row as it is, for the most likely token.
        top_k: int32, 0 or more; 0 is off.
        top_p: float32 in [0, 1]; 1 is off.
        min_p: float32 in [0, 1]; 0 is off.
        typical_p: float32 in [0, 1]; 1 is off.
        epsilon_cutoff: float32 in [0, 1]; 0 is off.
        eta_cutoff: float32 in [0, 1]; 0 is off.
    """

    temperature: tf.Tensor | float = 1.0
    top_k: tf.Tensor | int = 0
    top_p: tf.Tensor | float = 1.0
    min_p: tf.Tensor | float = 0.0
    typical_p: tf.Tensor | float = 1.0
    epsilon_cutoff: tf.Tensor | float = 0.0
    eta_cutoff: tf.Tensor | float = 0.0


def penalize_repetition(logits: tf.Tensor, seen: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Makes tokens that the row already holds less likely (or more, below 1).

    Args:
        logits: float32 `[B, V]`.
        seen: bool `[B, V]`, tokens of the prompt and of the continuation so far.
        penalty: float32 `[B]`, above 0; 1 is off.

    Returns:
        float32 `[B, V]`.

    Source: Keskar et al. 2019 (CTRL), section 4.1; transformers'
        `RepetitionPenaltyLogitsProcessor`.
    """
    penalty = penalty[:, None]
    penalized = tf.where(logits > 0, logits / penalty, logits * penalty)
    return tf.where(seen, penalized, logits)


def penalize_encoder_repetition(
    logits: tf.Tensor, prompt: tf.Tensor, penalty: tf.Tensor
) -> tf.Tensor:
    """Makes the prompt's tokens more likely (or less, below 1).

    Args:
        logits: float32 `[B, V]`.
        prompt: bool `[B, V]`, tokens of the prompt.
        penalty: float32 `[B]`, above 0; 1 is off.

    Returns:
        float32 `[B, V]`.

    Source: transformers' `EncoderRepetitionPenaltyLogitsProcessor`.
    """
    return penalize_repetition(logits, prompt, 1.0 / penalty)


def penalize_presence(logits: tf.Tensor, counts: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Takes `penalty` off each token that the continuation holds, once.

    Args:
        logits: float32 `[B, V]`.
        counts: int32 `[B, V]`, how often the row has *generated* each token; the prompt does not
            count.
        penalty: float32 `[B]`, logits; 0 is off, below it tokens become more likely.

    Returns:
        float32 `[B, V]`.

    Source: OpenAI API reference, `presence_penalty`: `score - presence * (count > 0)`, over the
        generated tokens.

    Example:
        >>> counts = tf.constant([[0, 1, 3]])
        >>> penalize_presence(tf.zeros([1, 3]), counts, tf.constant([0.5])).numpy().tolist()
        [[0.0, -0.5, -0.5]]
    """
    return logits - tf.where(counts > 0, penalty[:, None], 0.0)


def penalize_frequency(logits: tf.Tensor, counts: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Takes `penalty` off each token as often as the continuation holds it.

    Args:
        logits: float32 `[B, V]`.
        counts: int32 `[B, V]`, how often the row has *generated* each token; the prompt does not
            count.
        penalty: float32 `[B]`, logits per occurrence; 0 is off.

    Returns:
        float32 `[B, V]`.

    Source: OpenAI API reference, `frequency_penalty`: `score - frequency * count`, over the
        generated tokens.

    Example:
        >>> counts = tf.constant([[0, 1, 3]])
        >>> penalize_frequency(tf.zeros([1, 3]), counts, tf.constant([0.5])).numpy().tolist()
        [[0.0, -0.5, -1.5]]
    """
    return logits - tf.where(counts > 0, penalty[:, None] * tf.cast(counts, tf.float32), 0.0)


def hamming_diversity(logits: tf.Tensor, chosen: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Takes `penalty` off each token as often as earlier beam groups chose it in this step.

    Args:
        logits: float32 `[B, V]`.
        chosen: int32 `[B, M]`, tokens of the earlier groups of the row's prompt; -1 is none.
        penalty: float32 `[B]`, 0 or more; 0 is off.

    Returns:
        float32 `[B, V]`.

    Source: Vijayakumar et al. 2016, "Diverse Beam Search"; transformers 4.57's
        `HammingDiversityLogitsProcessor`.

    Example:
        >>> chosen = tf.constant([[2, 2, -1]])
        >>> hamming_diversity(tf.zeros([1, 3]), chosen, tf.constant([0.5])).numpy().tolist()
        [[0.0, 0.0, -1.0]]
    """
    return penalize_frequency(logits, count(chosen, logits.shape[-1]), penalty)


def forbid(logits: tf.Tensor, tokens: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Rules tokens out in some rows.

    Args:
        logits: float32 `[B, V]`.
        tokens: bool `[B, V]`.
        rows: bool `[B]`.

    Returns:
        float32 `[B, V]`.
    """
    return tf.where(tokens & rows[:, None], MASK_VALUE, logits)


def suppress(logits: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Rules out tokens listed for each row.

    Args:
        logits: float32 `[B, V]`.
        ids: int32 `[B, U]`; -1 is none.

    Returns:
        float32 `[B, V]`.

    Source: transformers' `SuppressTokensLogitsProcessor`.
    """
    return tf.where(mark(ids, logits.shape[-1]), MASK_VALUE, logits)


def begin_suppress(logits: tf.Tensor, ids: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Rules out tokens listed for each row, in the rows that are at their first token.

    Args:
        logits: float32 `[B, V]`.
        ids: int32 `[B, U]`; -1 is none.
        rows: bool `[B]`, rows about to choose their first token; after a prompt of one token with
            a forced first token, their second.

    Returns:
        float32 `[B, V]`.

    Source: transformers' `SuppressTokensAtBeginLogitsProcessor`; `begin_index` in
        `generation/utils.py::_get_logits_processor`.
    """
    return forbid(logits, mark(ids, logits.shape[-1]), rows)


def force_token(logits: tf.Tensor, ids: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Leaves some rows nothing but the tokens listed for them, all alike.

    Args:
        logits: float32 `[B, V]`.
        ids: int32 `[B, E]`; -1 is none, and a row without any stays as it is.
        rows: bool `[B]`: for `forced_bos_token_id` those that hold one token, for
            `forced_eos_token_id` those about to choose their last one.

    Returns:
        float32 `[B, V]`, 0 at the tokens and `MASK_VALUE` elsewhere.

    Source: transformers' `ForcedBOSTokenLogitsProcessor` and `ForcedEOSTokenLogitsProcessor`.
    """
    forced = mark(ids, logits.shape[-1])  # [B, V]
    rows &= tf.reduce_any(forced, axis=-1)  # [B]
    return tf.where(rows[:, None], tf.where(forced, 0.0, MASK_VALUE), logits)


def decay_length(
    logits: tf.Tensor, eos: tf.Tensor, start: tf.Tensor, factor: tf.Tensor, length: tf.Tensor
) -> tf.Tensor:
    """Makes end tokens likelier with each token past `start`.

    An end token's logit `x` becomes `x + |x| * (factor ** (length - start) - 1)`.

    Args:
        logits: float32 `[B, V]`.
        eos: int32 `[B, E]`, the end tokens; -1 is none. A forbidden one stays forbidden.
        start: int32 `[B]`, tokens after which it begins, the prompt's included.
        factor: float32 `[B]`, above 0; 1 is off.
        length: int32 `[B]`, tokens of the row so far, the prompt's included.

    Returns:
        float32 `[B, V]`.

    Source: transformers' `ExponentialDecayLengthPenalty`, which counts `start` from the prompt's
        end when it is made.
    """
    over = tf.maximum(length - start, 0)  # [B]
    growth = tf.minimum(tf.pow(factor, tf.cast(over, tf.float32)), -MASK_VALUE) - 1.0
    penalty = tf.minimum(tf.abs(logits) * growth[:, None], -MASK_VALUE)  # [B, V], finite
    changed = mark(eos, logits.shape[-1]) & ((over > 0) & (factor != 1))[:, None]
    return tf.where(changed & (logits > _FORBIDDEN), logits + penalty, logits)


def guide(logits: tf.Tensor, unconditional: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Moves a distribution away from the one without the prompt: classifier-free guidance.

    Args:
        logits: float32 `[B, V]`, after the prompt.
        unconditional: float32 `[B, V]`, after the negative prompt.
        scale: float32 `[B]`; 1 is off, above it the prompt weighs more.

    Returns:
        float32 `[B, V]`; log-probabilities moved apart where a row's scale is not 1.

    Source: Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance"; transformers'
        `UnbatchedClassifierFreeGuidanceLogitsProcessor`.
    """
    with_prompt, without = tf.nn.log_softmax(logits), tf.nn.log_softmax(unconditional)
    scale = scale[:, None]
    return tf.where(scale == 1, logits, scale * (with_prompt - without) + without)


def remove_invalid(logits: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Makes logits finite: NaN becomes 0, infinities the largest numbers there are.

    Args:
        logits: float32 `[B, V]`.
        rows: bool `[B]`, where it is done.

    Returns:
        float32 `[B, V]`.

    Source: transformers' `InfNanRemoveLogitsProcessor`.
    """
    finite = tf.where(tf.math.is_nan(logits), 0.0, logits)
    finite = tf.clip_by_value(finite, tf.float32.min, tf.float32.max)
    return tf.where(rows[:, None], finite, logits)


def renormalize(logits: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Makes logits log-probabilities again.

    Args:
        logits: float32 `[B, V]`.
        rows: bool `[B]`, where it is done.

    Returns:
        float32 `[B, V]`.

    Source: transformers' `LogitNormalization`.
    """
    return tf.where(rows[:, None], tf.nn.log_softmax(logits), logits)


def warp(scores: tf.Tensor, warping: Warping, least: tf.Tensor | int = 1) -> tf.Tensor:
    """Applies temperature and filters, one after the other.

    Each is skipped, at run time, when no row of the batch asks for it: one program serves all
    settings, and a row pays for what its batch uses.

    Args:
        scores: float32 `[B, V]`, logits or log-probabilities.
        warping: The settings; a row of temperature 0 stays as it is.
        least: int32 `[B]` or `[]`, tokens of a row that every filter leaves; beam sampling needs
            one more than there are end tokens.

    Returns:
        float32 `[B, V]`, `MASK_VALUE` where a token is ruled out.

    Source: transformers 4.57, `generation/utils.py::_get_logits_processor` for the order.

    Example:
        >>> warp(tf.constant([[1.0, 2.0, 0.0]]), Warping(temperature=0.5, top_k=1)).numpy()[0, 1]
        np.float32(4.0)
    """
    rows = tf.shape(scores)[0]
    temperature = tf.broadcast_to(warping.temperature, [rows])  # [B]
    sampled = temperature > 0
    filters = (
        (keep_top_k, warping.top_k, Warping().top_k),
        (keep_top_p, warping.top_p, Warping().top_p),
        (keep_min_p, warping.min_p, Warping().min_p),
        (keep_typical, warping.typical_p, Warping().typical_p),
        (keep_epsilon, warping.epsilon_cutoff, Warping().epsilon_cutoff),
        (keep_eta, warping.eta_cutoff, Warping().eta_cutoff),
    )

    def warped() -> tf.Tensor:
        cold = tf.where(sampled, tf.maximum(temperature, _COLDEST), 1.0)  # [B]
        hot = tf.maximum(scores / cold[:, None], tf.float32.min)
        for keep, setting, off in filters:
            # A plain number that is "off" is no part of the program at all.
            if isinstance(setting, (int, float)) and setting == off:
                continue
            setting = tf.broadcast_to(setting, [rows])  # [B]
            hot = _filter(hot, keep, setting, sampled & (setting != off), least)
        return hot

    return tf.cond(tf.reduce_any(sampled), warped, lambda: scores)


def draw(
    logits: tf.Tensor,
    warping: Warping | None = None,
    *,
    seed: tf.Tensor,
    step: tf.Tensor,
    **settings: tf.Tensor,
) -> tf.Tensor:
    """Chooses each row's next token.

    Filters and noise are skipped, at run time, when no row of the batch asks for them: one
    program serves all settings and a greedy batch pays for none.

    Args:
        logits: float32 `[B, V]`.
        warping: How to reshape the distribution; None changes nothing.
        seed: int64 `[B]`.
        step: int32 `[B]`, tokens the row drew before; `[]` is one number for all rows.
        **settings: Fields of `Warping` by name, instead of those in `warping`.

    Returns:
        int32 `[B]`; the most likely token where the temperature is 0.

    Raises:
        ValueError: A setting is no field of `Warping`.
    """
    warping = (warping or Warping())._replace(**settings)
    sampled = tf.broadcast_to(tf.convert_to_tensor(warping.temperature) > 0, tf.shape(logits)[:1])

    def noisy() -> tf.Tensor:
        scores = warp(logits, warping)
        # Gumbel-max: the largest of score + noise is a draw from the softmax of the scores.
        scores += gumbel(seed, step, logits.shape[-1])
        return tf.where(sampled[:, None], scores, logits)

    return argmax(tf.cond(tf.reduce_any(sampled), noisy, lambda: logits))


def _filter(
    scores: tf.Tensor,
    keep: Callable[[tf.Tensor, tf.Tensor, tf.Tensor | int], tf.Tensor],
    setting: tf.Tensor,
    rows: tf.Tensor,
    least: tf.Tensor | int,
) -> tf.Tensor:
    """Rules out what a filter drops; the filter runs only if some row uses it."""
    return tf.cond(
        tf.reduce_any(rows),
        lambda: tf.where(keep(scores, setting, least) | ~rows[:, None], scores, MASK_VALUE),
        lambda: scores,
    )
