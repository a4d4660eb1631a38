"""How models train: on the loss they compute from `labels`, or on a Keras loss of their logits."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.models.batch_checks import check_batches, explain_failure
from tfgpt2.models.call_arguments import LABELS
from tfgpt2.models.label_places import label_names, metric_pairs, place_labels
from tfgpt2.nn import quantization
from tfgpt2.nn.losses import DEFAULT_LOSS, Losses, LossSettings, mean_loss
from tfgpt2.outputs import ModelOutput

_LOSSES = ("loss", "mc_loss")  # whose sum is the own loss


class TrainableModel(keras.Model):
    """Base class of models that can compute their own loss, with `compile` and `fit` to match."""

    has_lm_loss = False  # whether the own loss is that of a language model
    labels_texts = False  # whether each text has one class, or several yes and no
    loss_settings = DEFAULT_LOSS  # of that loss; set by `compile`

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *,
        chunked_loss: bool | int = False,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile` does.

        Args:
            optimizer: Keras optimizer or its name.
            loss: None, `"auto"` or `"passthrough"`: the model's own loss, from `labels` among the
                inputs or beside them. Otherwise a Keras loss on the logits; for a language model,
                the pipeline has already shifted its targets.
            chunked_loss: Compute the own loss of a language model without materialising the
                logits of all tokens; a call with `labels` then returns no logits. An integer is
                the number of tokens per chunk; True chooses it.
            label_smoothing: See `tfgpt2.nn.losses.LossSettings`; for the own loss of a
                language model, in training only.
            z_loss: Likewise.
            jit_compile: `"auto"` uses XLA on a GPU and not on a CPU, where TensorFlow's own matrix
                kernels train faster, especially in bfloat16.
            **kwargs: See `keras.Model.compile`.

        Raises:
            ValueError: Options of the own loss do not fit the model, or come with another loss.
        """
        if chunked_loss is not False:
            quantization.require_float(self, "`chunked_loss`")
        loss = None if loss in ("auto", "passthrough") else loss
        settings = LossSettings(
            chunked=chunked_loss is not False,
            chunk=None if isinstance(chunked_loss, bool) else chunked_loss,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )
        if settings != DEFAULT_LOSS and (loss is not None or not self.has_lm_loss):
            raise value_error(
                "`chunked_loss`, `label_smoothing` and `z_loss` are options of a language"
                " model's own loss.",
                fix="Leave `loss` out and give 'labels' among the inputs, or leave them out.",
                loss=loss,
                model=type(self).__name__,
                settings=settings,
            )
        if jit_compile == "auto" and not tf.config.list_logical_devices("GPU"):
            jit_compile = False
        # Keras keeps the loss and the metrics of an earlier call where this one has none.
        self._compile_loss = self._compile_metrics = None
        super().compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile, **kwargs)
        self.loss_settings = settings
        self._has_keras_loss = loss is not None
        self._has_metrics = bool(kwargs.get("metrics") or kwargs.get("weighted_metrics"))

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile_from_config`; Keras writes them to `.keras` files."""
        settings, config = self.loss_settings, super().get_compile_config()
        if not config or settings == DEFAULT_LOSS:
            return config
        return config | {
            "chunked_loss": (settings.chunk or True) if settings.chunked else False,
            "label_smoothing": settings.label_smoothing,
            "z_loss": settings.z_loss,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a reloaded model like the saved one, which Keras leaves to the class."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `keras.Model.fit` does; see there for the arguments.

        Ids and labels are checked, in arrays and in `tf.data` pipelines; see
        `tfgpt2.models.batch_checks`.

        Raises:
            ValueError: An id or a label is out of range, or there are weights and no targets.
        """
        bound = self._checked(super().fit, x, y, *args, **kwargs)
        options = bound.arguments
        validation = options.get("validation_data")
        if isinstance(validation, tuple) and validation:
            check_batches(validation[0], self)
        else:
            options["validation_data"] = check_batches(validation, self)
        with self._explained():
            return super().fit(*bound.args, **bound.kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does; ids and labels are checked, as in `fit`.

        Raises:
            ValueError: An id or a label is out of range, or there are weights and no targets.
        """
        if kwargs.get("_use_cached_eval_dataset"):  # by `fit`, which has checked it
            return super().evaluate(x, y, *args, **kwargs)
        bound = self._checked(super().evaluate, x, y, *args, **kwargs)
        with self._explained():
            return super().evaluate(*bound.args, **bound.kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains on one batch as `keras.Model.train_on_batch` does; it is checked as in `fit`.

        Raises:
            ValueError: An id or a label is out of range, or there are weights and no targets.
        """
        bound = self._checked(super().train_on_batch, x, y, *args, **kwargs)
        return super().train_on_batch(*bound.args, **bound.kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates one batch as `keras.Model.test_on_batch` does; it is checked as in `fit`.

        Raises:
            ValueError: An id or a label is out of range, or there are weights and no targets.
        """
        bound = self._checked(super().test_on_batch, x, y, *args, **kwargs)
        return super().test_on_batch(*bound.args, **bound.kwargs)

    def _checked(
        self, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> inspect.BoundArguments:
        """The arguments of one of Keras' methods, with checked batches and labels in their place.

        Raises:
            ValueError: See `fit`.
        """
        bound = inspect.signature(method).bind(*args, **kwargs)
        _move_labels(self, bound.arguments)
        _check_weights(self, bound.arguments)
        bound.arguments["x"] = check_batches(bound.arguments["x"], self)
        return bound

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Context in which the error of a checked dataset becomes one of this package."""
        try:
            yield
        except tf.errors.InvalidArgumentError as error:
            explained = explain_failure(error, self)
            if explained is error:
                raise
            raise explained from error

    def make_train_function(self, force: bool = False) -> Any:
        """Builds the training step of `fit`.

        Raises:
            ValueError: The model is quantised.
        """
        quantization.require_float(self, "Training")
        return super().make_train_function(force)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Returns the scalar that `fit` minimises: the model's own loss, or the compiled one.

        Raises:
            ValueError: The data and `compile` specify both losses, or neither.
        """
        parts = [y_pred[part] for part in _LOSSES if part in y_pred] if isinstance(
            y_pred, ModelOutput) else []  # fmt: skip
        own = tf.add_n(parts) if parts else None
        if own is not None and not self._has_keras_loss:
            if sample_weight is not None:
                labels = {name: x[name] for name in label_names(self) if name in x}
                parts = self.loss_parts(labels, y_pred, training)
                by_label = (
                    sample_weight
                    if isinstance(sample_weight, Mapping)
                    else dict.fromkeys(parts, sample_weight)
                )
                own = tf.add_n([mean_loss(*parts[name], by_label[name]) for name in parts])
            # Gradients are summed over replicas; `fit` shows the loss times their number.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            return tf.add_n([own, *self.losses]) / replicas
        elif self._has_keras_loss:
            # Keras builds the loss before labels are placed.
            _, targets, _ = place_labels(self, (x, y, sample_weight), own_loss=False)
            if targets is not None and (own is None or targets is not y):
                return super().compute_loss(x, targets, _logits(y_pred), sample_weight, training)
        raise value_error(
            "Training takes either labels and the model's own loss, or targets and a compiled loss;"
            " not both, not neither.",
            fix="Use compile(optimizer) with {'input_ids': ids, 'labels': ids}, or"
            " compile(optimizer, loss) with (ids, targets).",
            inputs=_names(x),
            targets=type(y).__name__,
            sample_weight=type(sample_weight).__name__,
            compiled_loss=self._has_keras_loss,
            results=type(y_pred).__name__,
        )

    def loss_parts(
        self, labels: Mapping[str, tf.Tensor], results: Mapping[str, tf.Tensor], training: bool
    ) -> dict[str, Losses]:
        """The losses whose means add up to the own loss, by label.

        Args:
            labels: The labels among the inputs, by name.
            results: The model's results.
            training: Whether label smoothing and z-loss are applied.

        Returns:
            Losses `[B]`, or of the shape of their labels.
        """
        raise NotImplementedError

    def train_step(self, data: Any) -> Any:
        """Trains on one batch; see `place_labels` for what a batch can be."""
        return super().train_step(place_labels(self, data, own_loss=not self._has_keras_loss))

    def test_step(self, data: Any) -> Any:
        """Evaluates one batch; see `place_labels` for what a batch can be."""
        return super().test_step(place_labels(self, data, own_loss=not self._has_keras_loss))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict:
        """Updates the compiled metrics with the logits and returns all of them.

        Raises:
            ValueError: There are metrics but no targets.
        """
        if self._has_metrics and not self._has_keras_loss and isinstance(y_pred, ModelOutput):
            y, y_pred, weights = metric_pairs(self, x, y, y_pred)
            sample_weight = weights if sample_weight is None else sample_weight
        elif self._has_keras_loss and y is None:
            _, y, _ = place_labels(self, x, own_loss=False)
        if y is None and self._has_metrics:
            raise value_error(
                "Metrics compare the logits with targets, and there are none.",
                fix="Compile with a loss and feed (inputs, targets), or leave metrics out.",
                inputs=_names(x),
            )
        return super().compute_metrics(x, y, _logits(y_pred), sample_weight)

    def predict_step(self, data: Any) -> Any:
        """Runs one batch of `predict`, without outputs that cannot be joined along the rows."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        if isinstance(x, Mapping):  # labels would add a scalar loss
            x = {name: value for name, value in x.items() if name not in LABELS}
        known = inspect.signature(self.call).parameters
        return self(x, training=False, **({"use_cache": False} if "use_cache" in known else {}))

    def gradient_checkpointing_enable(self) -> None:
        """Trains with less memory: the backward pass recomputes each block's activations."""
        self.transformer.checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keeps all activations for the backward pass, which is faster."""
        self.transformer.checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradient checkpointing is on."""
        return self.transformer.checkpointing


def _move_labels(model: TrainableModel, options: dict[str, Any]) -> None:
    """Moves labels among the inputs to the targets, where there are weights.

    Keras drops weights that come without targets. A language model's labels stay where a Keras
    loss would compare them with the scores of the same token.

    Args:
        model: The model.
        options: The arguments of `fit`, `evaluate` or those for one batch; changed.
    """
    x, names = options.get("x"), label_names(model)
    weighted = any(options.get(n) is not None for n in ("class_weight", "sample_weight"))
    if not weighted or options.get("y") is not None or not isinstance(x, Mapping):
        return
    held = {name: x[name] for name in names if name in x}
    if not held or (model.has_lm_loss and getattr(model, "_has_keras_loss", False)):
        return
    options["x"] = {name: value for name, value in x.items() if name not in held}
    options["y"] = held if held.keys() != {names[0]} else held[names[0]]


def _check_weights(model: TrainableModel, options: Mapping[str, Any]) -> None:
    """Checks that weights of classes or examples come with targets that they can act on.

    Args:
        model: The model.
        options: The arguments of `fit`, `evaluate` or those for one batch.
    """
    weights = [n for n in ("class_weight", "sample_weight") if options.get(n) is not None]
    if "class_weight" in weights and not model.labels_texts:
        # Of ids `[B, T]` Keras would take the place of the largest one as the class of the text.
        raise value_error(
            "`class_weight` is for one class per text, which this model's labels are not.",
            fix="Use sample_weight, with the shape of the labels: np.take(weights, labels).",
            class_weight=options["class_weight"],
            model=type(model).__name__,
        )
    y, by_row = options.get("y"), options.get("sample_weight")
    if by_row is not None and hasattr(y, "shape"):
        shape, places = tuple(np.shape(by_row)), tuple(y.shape)
        if shape not in (places[:1], places):
            raise value_error(
                "Weights are one number for each example, or one for each of its labels.",
                fix="Give weights [B], or of the shape of the labels.",
                sample_weight=shape,
                targets=places,
            )
    x, targets = options.get("x"), y is not None
    if isinstance(x, tf.data.Dataset):
        targets = isinstance(x.element_spec, tuple) and len(x.element_spec) > 1
    elif not isinstance(x, (np.ndarray, tf.Tensor, Mapping, list)):
        return  # batches of a generator, which `compute_loss` checks
    if weights and not targets:
        raise value_error(
            f"`{weights[0]}` applies to targets and a compiled loss, not to 'labels' among the"
            " inputs.",
            fix="Use compile(optimizer, keras.losses.SparseCategoricalCrossentropy("
            f"from_logits=True)) and fit(inputs, labels, {weights[0]}=...), with the inputs"
            " without 'labels'; a dataset gives (inputs, labels), or (inputs, labels,"
            " sample_weight).",
            inputs=_names(x),
            targets=None,
        )


def _logits(y_pred: Any) -> Any:
    """The logits of a result, for Keras losses and metrics."""
    return y_pred["logits"] if isinstance(y_pred, ModelOutput) and "logits" in y_pred else y_pred


def _names(x: Any) -> Any:
    """The names of a batch's inputs, for error messages."""
    return sorted(x) if isinstance(x, Mapping) else type(x).__name__
