"""Training recipes: the AdamW optimizer, averaged weights, frozen parts, and precision.

`AdamW` is Keras' with these fixes: clipping with several replicas, schedules and averages that
count steps with accumulated gradients, and weights that are kept at the end of `fit` so that
training can be resumed.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.errors import nearest, value_error
from tfgpt2.training.schedules import WarmUp
from tfgpt2.training.settings import PRECISIONS
from tfgpt2.validation import check_choice, check_count, check_range

_EMBEDDINGS = ("wte", "wpe")
_SPEEDUP = 1.3  # from which bfloat16 is chosen


def create_optimizer(
    init_lr: float,
    num_train_steps: int,
    num_warmup_steps: int,
    min_lr_ratio: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-8,
    adam_clipnorm: float | None = None,
    adam_global_clipnorm: float | None = None,
    weight_decay_rate: float = 0.0,
    power: float = 1.0,
) -> tuple[AdamW, keras.optimizers.schedules.LearningRateSchedule]:
    """Makes transformers' usual optimizer: AdamW, a warm-up, and a decay to zero.

    Args:
        init_lr: The highest rate.
        num_train_steps: Steps of the whole training.
        num_warmup_steps: Steps of the warm-up.
        min_lr_ratio: The last rate, as a part of the highest one.
        adam_beta1: See `keras.optimizers.AdamW`, also for the next four.
        adam_beta2: Decay of the second moment.
        adam_epsilon: Added to the root of the second moment.
        adam_clipnorm: Clips each gradient.
        adam_global_clipnorm: Clips all gradients together.
        weight_decay_rate: Weight decay, which spares biases.
        power: Power of the polynomial decay; 1 is a line.

    Returns:
        The optimizer and its schedule.

    Source: transformers 4.57, `optimization_tf.py::create_optimizer`.
    """
    decay_steps = max(num_train_steps - num_warmup_steps, 1)
    end = init_lr * min_lr_ratio
    rate = keras.optimizers.schedules.PolynomialDecay(init_lr, decay_steps, end, power)
    schedule = WarmUp(rate, num_warmup_steps) if num_warmup_steps else rate
    optimizer = AdamW(
        learning_rate=schedule,
        beta_1=adam_beta1,
        beta_2=adam_beta2,
        epsilon=adam_epsilon,
        clipnorm=adam_clipnorm,
        global_clipnorm=adam_global_clipnorm,
        weight_decay=weight_decay_rate,
    )
    if weight_decay_rate:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer, schedule


@keras.saving.register_keras_serializable("tfgpt2")
class AdamW(keras.optimizers.AdamW):
    """Keras' AdamW, for several replicas and for accumulated gradients.

    - Gradients of all replicas are summed before clipping, so the norm is that of the whole batch,
      as with one replica. (Keras clips the part of each replica.)
    - With `gradient_accumulation_steps`, a schedule of the learning rate counts steps, updates of
      the weights, and not batches; the average of the weights is updated once per step, and with
      `ema_overwrite_frequency` the weights are replaced after a step. (Keras counts batches for
      the schedule, and does the others with every batch.)
    - `keep_weights = True` keeps the weights at the end of `fit`, so that training can be resumed;
      see `averaged`. (Keras replaces them by the averages.)

    Args:
        **options: See `keras.optimizers.AdamW`.
    """

    keep_weights = False

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Applies the gradients of this replica's batch."""
        # Sparse gradients may repeat rows, which must be summed before the norm is computed.
        grads = [None if g is None else tf.convert_to_tensor(g) for g in grads]
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            if self.gradient_accumulation_steps:
                raise value_error(
                    "Gradients cannot be accumulated with several replicas.",
                    fix="Use a larger batch, which is split among the replicas.",
                    accumulate=self.gradient_accumulation_steps,
                    replicas=replica.num_replicas_in_sync,
                )
            grads = _summed(replica, grads)
        return super().apply(grads, trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars  # `apply` has summed them

    def _get_current_learning_rate(self) -> Any:
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)  # not `_iterations`, which counts batches
        return super()._get_current_learning_rate()

    def _completes_step(self) -> tf.Tensor:
        """Whether the batch that is being applied is the last one of its step: bool `[]`."""
        every = self.gradient_accumulation_steps or 1
        return tf.equal((tf.convert_to_tensor(self._iterations) + 1) % every, 0)

    def _update_model_variables_moving_average(self, trainable_variables: Any) -> None:
        due = self._completes_step()
        first = tf.equal(tf.convert_to_tensor(self.iterations), 0)
        for variable, average in zip(
            trainable_variables, self._model_variables_moving_average, strict=True
        ):
            if average is None:
                continue
            keep = tf.where(first, 0.0, tf.where(due, self.ema_momentum, 1.0))
            keep = tf.cast(keep, average.dtype)
            average.assign(keep * average + (1 - keep) * tf.cast(variable, average.dtype))

    def _backend_apply_gradients(self, grads: Any, trainable_variables: Any) -> None:
        # Keras would overwrite with each batch of a step whose number is a multiple.
        frequency, self.ema_overwrite_frequency = self.ema_overwrite_frequency, None
        try:
            super()._backend_apply_gradients(grads, trainable_variables)
        finally:
            self.ema_overwrite_frequency = frequency
        if self.use_ema and frequency:
            tf.cond(
                self._completes_step() & tf.equal((self.iterations + 1) % frequency, 0),
                lambda: self._overwrite_model_variables_with_average_value(
                    self._trainable_variables
                ),
                lambda: None,
            )

    def finalize_variable_values(self, var_list: Any) -> None:
        """Replaces the weights by the averages at the end of `fit`, unless `keep_weights`."""
        if not self.keep_weights:
            super().finalize_variable_values(var_list)


def _summed(replica: Any, grads: list[Any]) -> list[Any]:
    known = [g for g in grads if g is not None]
    known = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, known))
    return [None if g is None else next(known) for g in grads]


def decays(variable: Any) -> bool:
    """Whether weight decay applies to a variable: to matrices other than embeddings.

    Biases and layer norms are vectors; the token embeddings, tied to the output matrix, and the
    position embeddings are excluded. Adapter factors are matrices.

    Args:
        variable: A weight of a model of this package.

    Source: Brown et al. 2020, appendix B, says "weight decay of 0.1"; the split is minGPT's
        `model.py::configure_optimizers`.

    Example:
        >>> from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
        >>> model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
        >>> [v.path.split("/", 2)[2] for v in model.weights if decays(v)][:2]
        ['h_0/attn/c_attn/weight', 'h_0/attn/c_proj/weight']
    """
    return len(variable.shape) > 1 and not set(variable.path.split("/")) & set(_EMBEDDINGS)


def adamw(
    model: keras.Model,
    learning_rate: Any = 3e-4,
    *,
    weight_decay: float = 0.1,
    beta_1: float = 0.9,
    beta_2: float = 0.95,
    epsilon: float = 1e-8,
    clip_norm: float | None = 1.0,
    accumulate: int = 1,
    ema: float | None = None,
) -> AdamW:
    """AdamW with the usual settings of GPT-2, built for the model's trainable weights.

    Freeze weights and add adapters first: weights that do not train get no optimizer state.

    Args:
        model: The model to train.
        learning_rate: A number or a schedule; see `tfgpt2.training.schedules.schedule`.
        weight_decay: Decoupled weight decay, multiplied by the learning rate; see `decays`.
        beta_1: Decay of the mean of the gradients.
        beta_2: Decay of the mean of their squares.
        epsilon: Added to the denominator.
        clip_norm: Largest global norm of the gradients; None does not clip.
        accumulate: Batches whose gradients are accumulated in a step. Schedules, averages and
            clipping then count steps. Every batch has the same weight: a step equals one of the
            large batch if its batches have the same number of scored labels, as blocks of texts do.
            With fewer labels in some, as in completions, those weigh more each.
        ema: Decay of a moving average of the weights, such as 0.999; None keeps none. At the end
            of `fit` the averages replace the weights.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
        >>> model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
        >>> model.compile(adamw(model, 1e-3, ema=0.99))
        >>> float(model.optimizer.global_clipnorm)
        1.0
    """
    check_count("accumulate", accumulate, least=1)
    check_range("weight_decay", weight_decay, 0, np.inf)
    check_range("beta_1", beta_1, 0, 1)
    check_range("beta_2", beta_2, 0, 1)
    check_range("epsilon", epsilon, 0, np.inf)
    if clip_norm is not None:
        check_range("clip_norm", clip_norm, 0, np.inf, include_low=False)
    if ema is not None:
        check_range("ema", ema, 0, 1)
    optimizer = AdamW(
        learning_rate,
        weight_decay=weight_decay,
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=epsilon,
        global_clipnorm=clip_norm,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
        use_ema=ema is not None,
        ema_momentum=0.99 if ema is None else ema,
    )
    trainable = model.trainable_variables
    excluded = [variable for variable in trainable if not decays(variable)]
    optimizer.exclude_from_weight_decay(var_list=excluded)
    optimizer.build(trainable)
    return optimizer


def value_of(variable: Any) -> np.ndarray:
    """The value of a variable, which may be distributed."""
    return np.asarray(tf.convert_to_tensor(variable))


def base_optimizer(model: keras.Model) -> Any:
    """The optimizer of a compiled model, without the loss scaling that Keras adds in float16."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def steps_of(model: keras.Model) -> int:
    """Number of training steps of a compiled model: updates of its weights."""
    return int(value_of(model.optimizer.iterations))


@contextlib.contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Context in which the averages of `adamw(ema=...)` replace the weights.

    Args:
        model: A compiled model; without averages, nothing happens.

    Example:
        >>> from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
        >>> model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
        >>> model.compile(adamw(model, 1e-3, ema=0.99))
        >>> with averaged(model):
        ...     last = model.get_weights()  # or evaluate, or save_pretrained
    """
    optimizer = base_optimizer(model)
    if not getattr(optimizer, "use_ema", False):
        yield
        return
    averages = optimizer._model_variables_moving_average
    pairs = [pair for pair in zip(model.trainable_variables, averages, strict=True)
             if pair[1] is not None]  # fmt: skip
    before = [value_of(variable) for variable, _ in pairs]
    for variable, average in pairs:
        variable.assign(value_of(average))
    try:
        yield
    finally:
        for (variable, _), value in zip(pairs, before, strict=True):
            variable.assign(value)


def freeze(model: keras.Model, *parts: str) -> list[str]:
    """Freezes parts of a model; call it before `compile`.

    Args:
        model: Any model of this package.
        *parts: Names as in checkpoints: `"wte"`, `"wpe"`, `"ln_f"`, `"h"`, `"h.3"`, `"h.3.attn"`,
            an inclusive range of blocks such as `"h.0-5"` or `"h.0-5.mlp"`, or a head such as
            `"lm_head"`.

    Returns:
        The paths of the frozen weights.

    Raises:
        ValueError: The model has no such part.

    Example:
        >>> from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
        >>> model = TFGPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=8, n_head=2, vocab_size=10))
        >>> len(freeze(model, "wte", "h.0-1"))
        25
        >>> len(model.trainable_variables)
        15
    """
    layers = [layer for part in parts for layer in _layers(model, part)]
    for layer in layers:
        layer.trainable = False
    return sorted({variable.path for layer in layers for variable in layer.weights})


def _layers(model: Any, part: str) -> list[keras.layers.Layer]:
    """The layers of a part."""
    first, *rest = part.removeprefix(f"{model.base_model_prefix}.").split(".")
    found: list[Any] = [
        getattr(model if first in _names(model) else model.transformer, first, None)
    ]
    for name in rest:
        found = [child for layer in found for child in _children(layer, name)]
    found = [one for layer in found for one in (layer if isinstance(layer, list) else [layer])]
    if not found or not all(isinstance(layer, keras.layers.Layer) for layer in found):
        known = [*_names(model), *_names(model.transformer), "h.0"]
        raise value_error(
            f"The model has no part {part!r}.",
            fix=f"{nearest(part, known)} Blocks are 'h.0' to 'h.{model.config.n_layer - 1}',"
            " several at once 'h.0-3'.",
            part=part,
        )
    return found


def _children(layer: Any, name: str) -> list[Any]:
    """The layers of a name inside a layer or list of blocks; `[None]` if there are none."""
    if not isinstance(layer, list):
        return [getattr(layer, name, None) if name in _names(layer) else None]
    blocks = re.fullmatch(r"(\d+)(?:-(\d+))?", name)
    if blocks is None:
        return [None]
    start, stop = int(blocks[1]), int(blocks[2] or blocks[1])
    return list(layer[start : stop + 1]) if start <= stop < len(layer) else [None]


def _names(layer: Any) -> list[str]:
    """Names of the attributes that are layers with weights."""
    return sorted(
        name
        for name, value in vars(layer).items()
        if isinstance(value, keras.layers.Layer) and value.weights and not name.startswith("_")
    )


def precision(name: str = "auto") -> str:
    """Keras dtype policy for training.

    Args:
        name: `"float32"`, `"mixed_bfloat16"` (weights and sums stay float32), or `"auto"`: the
            second if this machine multiplies matrices at least 1.3 times faster with it.

    Raises:
        ValueError: There is no such choice.

    Example:
        >>> precision("float32")
        'float32'
    """
    check_choice("name", name, PRECISIONS)
    if name != "auto":
        return name
    times = {dtype: _product_time(dtype) for dtype in (tf.float32, tf.bfloat16)}
    return "mixed_bfloat16" if times[tf.float32] > _SPEEDUP * times[tf.bfloat16] else "float32"


def _product_time(dtype: tf.DType) -> float:
    """Seconds of a matrix product of the size in a block of GPT-2, the best of five."""
    x, w = tf.ones([512, 768], dtype), tf.ones([768, 1536], dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(x, w)))
    product()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        product().numpy()
        times.append(time.perf_counter() - start)
    return min(times)
