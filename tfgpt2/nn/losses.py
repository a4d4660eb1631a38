"""Losses as pure functions; the label -100 is ignored."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from tfgpt2.errors import value_error

IGNORED_LABEL = -100


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """Settings of a language model's own loss.

    Attributes:
        chunked: Do not materialise the logits of all tokens; the model then returns no logits
            with a loss.
        chunk: Most tokens per chunk; None chooses by the size of the vocabulary.
        label_smoothing: Share of the target distributed evenly over the vocabulary, in [0, 1).
        z_loss: Factor on the squared log-sum-exp of the logits, 0 or more; 1e-4 is usual.

    The last two apply in training only, so that results of `evaluate` stay comparable.

    Raises:
        ValueError: A number is out of range.

    Source: Szegedy et al. 2016, section 7 (label smoothing); Chowdhery et al. 2022, section 5
        (z-loss).

    Example:
        >>> LossSettings(label_smoothing=0.1).z_loss
        0.0
    """

    chunked: bool = False
    chunk: int | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        number = (int, float)
        checks = {
            "chunk": (self.chunk is None or _is_count(self.chunk), "None or an integer above 0"),
            "label_smoothing": (
                isinstance(self.label_smoothing, number) and 0 <= self.label_smoothing < 1,
                "in [0, 1)",
            ),
            "z_loss": (
                isinstance(self.z_loss, number) and 0 <= self.z_loss < float("inf"),
                "finite and at least 0",
            ),
        }
        for name, (fits, expected) in checks.items():
            if not fits:
                raise value_error(
                    f"`{name}` must be {expected}.",
                    fix="Leave it out to switch it off.",
                    **{name: getattr(self, name)},
                )

    def for_evaluation(self) -> LossSettings:
        """The same settings without those that apply in training only."""
        return dataclasses.replace(self, label_smoothing=0.0, z_loss=0.0)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


DEFAULT_LOSS = LossSettings()


def regularized_nll(
    logits: tf.Tensor, labels: tf.Tensor, settings: LossSettings
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Loss of each token, with label smoothing and z-loss.

    Args:
        logits: float32 `[..., V]`.
        labels: int `[...]` in `[0, V)`, or -100 for "not scored".
        settings: Label smoothing and z-loss.

    Returns:
        float32 `[...]` each: nats (arbitrary where not scored, NaN for any other label that is out
        of range, which TensorFlow's own kernels on a CPU refuse), weights (1 where scored, else 0),
        and the log-sum-exp of the logits.

    Source: PyTorch `cross_entropy(label_smoothing=)`: the target is `1 - s` at the label, plus
        `s / V` everywhere.
    """
    weights = tf.cast(tf.not_equal(labels, IGNORED_LABEL), tf.float32)
    log_sum = tf.reduce_logsumexp(logits, axis=-1)  # [...]
    # Only -100 is replaced: any other label outside the vocabulary is still an error.
    indices = tf.where(weights > 0, labels, tf.zeros_like(labels))
    chosen = tf.gather(logits, indices, batch_dims=labels.shape.rank)  # [...]
    # XLA reads it as the nearest one.
    known = (indices >= 0) & (indices < tf.cast(tf.shape(logits)[-1], indices.dtype))
    chosen = tf.where(known, chosen, float("nan"))
    nll = log_sum - (1.0 - settings.label_smoothing) * chosen
    if settings.label_smoothing:
        nll -= settings.label_smoothing * tf.reduce_mean(logits, axis=-1)
    if settings.z_loss:
        nll += settings.z_loss * tf.square(log_sum)
    return nll, weights, log_sum


class Losses(NamedTuple):
    """Losses before they are averaged.

    Attributes:
        values: float32 `[...]`, nats; 0 where not scored.
        scored: float32 `[...]`, 1 where there is a label, else 0.
    """

    values: tf.Tensor
    scored: tf.Tensor


def mean_loss(values: tf.Tensor, scored: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
    """The mean of what is scored, float32 `[]`; 0 when nothing is.

    Args:
        values: See `Losses`.
        scored: Likewise.
        weights: Float `[B]` or of the shape of `values`: factors of the examples, or of their
            places. The sum is still divided by the number of scored places, as in Keras.

    Example:
        >>> float(mean_loss(tf.constant([1.0, 3.0]), tf.ones([2]), tf.constant([0.0, 2.0])))
        3.0
    """
    if weights is not None:
        rows = tf.shape(values)[0]
        values = tf.reshape(values, [rows, -1])  # [B, N]
        values *= tf.reshape(tf.cast(weights, tf.float32), [rows, -1])  # [B, 1] or [B, N]
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.reduce_sum(scored))


def token_nll(logits: tf.Tensor, labels: tf.Tensor) -> Losses:
    """Negative log-likelihood of each label, in float32.

    Args:
        logits: Float `[..., V]`.
        labels: int `[...]` in `[0, V)`, or -100 for "not scored".
    """
    scored = tf.not_equal(labels, IGNORED_LABEL)
    labels = tf.where(scored, labels, tf.zeros_like(labels))
    nll = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    scored = tf.cast(scored, tf.float32)
    return Losses(nll * scored, scored)


def causal_lm_loss(
    logits: tf.Tensor, labels: tf.Tensor, settings: LossSettings = DEFAULT_LOSS
) -> tf.Tensor:
    """Mean negative log-likelihood of each next token.

    Args:
        logits: Float `[B, T, V]`, the model's output at each token.
        labels: int `[B, T]`, usually the input ids; the shift by one happens here. -100 is
            excluded from the mean.
        settings: Label smoothing and z-loss; off by default.

    Returns:
        float32 `[]`, nats per scored token; 0 when none is scored.

    Source: transformers 4.57, `loss/loss_utils.py::ForCausalLMLoss`.

    Example:
        >>> float(causal_lm_loss(tf.zeros([1, 3, 4]), tf.constant([[0, 1, -100]])))
        1.3862943649291992
    """
    return mean_loss(*causal_lm_nll(logits, labels, settings))


def causal_lm_nll(
    logits: tf.Tensor, labels: tf.Tensor, settings: LossSettings = DEFAULT_LOSS
) -> Losses:
    """The loss of predicting each label from the logits before it; see `causal_lm_loss`.

    Returns:
        float32 `[B, T - 1]`, for the labels from the second on.
    """
    logits, labels = logits[:, :-1], labels[:, 1:]  # [B, T - 1, V], [B, T - 1]
    if settings.label_smoothing or settings.z_loss:
        nll, scored, _ = regularized_nll(tf.cast(logits, tf.float32), labels, settings)
        return Losses(nll * scored, scored)
    return token_nll(logits, labels)


def classification_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of class labels.

    Args:
        logits: Float `[..., C]`.
        labels: int `[...]` in `[0, C)`; -100 is excluded from the mean.

    Returns:
        float32 `[]`, nats; 0 when nothing is scored.

    Source: PyTorch `CrossEntropyLoss` with its default `ignore_index`.
    """
    return mean_loss(*token_nll(logits, labels))


def sequence_losses(logits: tf.Tensor, labels: tf.Tensor, problem_type: str | None) -> Losses:
    """Loss of each text in sequence classification, by problem type.

    Args:
        logits: Float `[B, C]`.
        labels: `[B]` class numbers, `[B, C]` zeros and ones, or `[B]` / `[B, C]` real targets.
        problem_type: `"regression"`, `"single_label_classification"`,
            `"multi_label_classification"`; None decides as transformers does: one logit means a
            regression, integer labels one class each, float labels several.

    Returns:
        `[B]`: mean squared error, or cross-entropy in nats; a class of -100 is not scored.

    Source: transformers 4.57, `modeling_gpt2.py::GPT2ForSequenceClassification.forward`.
    """
    problem_type = _problem_type(logits, labels, problem_type)
    logits = tf.cast(logits, tf.float32)
    if problem_type == "single_label_classification":
        return token_nll(logits, tf.reshape(labels, [-1]))
    targets = tf.reshape(tf.cast(labels, tf.float32), tf.shape(logits))  # [B, C]
    if problem_type == "regression":
        losses = tf.square(logits - targets)
    else:
        losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    losses = tf.reduce_mean(losses, axis=-1)  # [B]
    return Losses(losses, tf.ones_like(losses))


def sequence_loss(logits: tf.Tensor, labels: tf.Tensor, problem_type: str | None) -> tf.Tensor:
    """Mean of `sequence_losses` over the texts: float32 `[]`; labels of -100 are left out."""
    return mean_loss(*sequence_losses(logits, labels, problem_type))


def _problem_type(logits: tf.Tensor, labels: tf.Tensor, problem_type: str | None) -> str:
    """The problem type, which follows from logits and labels where the configuration has none."""
    if problem_type is None:
        problem_type = "multi_label_classification"
        if labels.dtype.is_integer:
            problem_type = "single_label_classification"
        if logits.shape[-1] == 1:
            problem_type = "regression"
    return problem_type


def span_loss(start: tf.Tensor, end: tf.Tensor, first: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """Loss of extractive question answering.

    Args:
        start: Float `[B, T]`, logits of each token as the first.
        end: Float `[B, T]`, logits of each token as the last.
        first: int `[B]` or `[B, 1]`, the first token; `T` or more excludes the row.
        last: int `[B]` or `[B, 1]`, the last token.

    Returns:
        float32 `[]`, nats.

    Source: transformers 4.57, `modeling_gpt2.py::GPT2ForQuestionAnswering.forward`.
    """
    return tf.add_n([mean_loss(*part) for part in span_nll(start, end, first, last)]) / 2


def span_nll(
    start: tf.Tensor, end: tf.Tensor, first: tf.Tensor, last: tf.Tensor
) -> tuple[Losses, Losses]:
    """The losses `[B]` of the first and of the last token; see `span_loss`."""
    length = tf.shape(start)[1]

    def ignore_outside(labels: tf.Tensor) -> tf.Tensor:
        labels = tf.maximum(tf.reshape(tf.cast(labels, tf.int32), [-1]), 0)  # [B]
        return tf.where(labels < length, labels, IGNORED_LABEL)

    return token_nll(start, ignore_outside(first)), token_nll(end, ignore_outside(last))
