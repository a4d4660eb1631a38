"""Low-rank adapters on a model's projections: several by name, one of them active at a time.

A projection that some adapter changes has one slot: `lora_kernel_a` `[in, rank]`,
`lora_kernel_b` `[rank, out]` (named as in Keras' `Dense.enable_lora`) and a scale. The slots hold
the factors of the active adapter, padded with zeros to the largest rank; those of the others are
kept on the host. So a change of adapter is an assignment, which compiled programs see. The zeros
stay zeros in training, since the gradient of the padding of each factor is a product with the
padding of the other.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints.lora_adapters import Adapter, Factors
from tfgpt2.checkpoints.names import key_from_path, part
from tfgpt2.errors import nearest, value_error
from tfgpt2.nn import quantization
from tfgpt2.nn.layers import Conv1D
from tfgpt2.nn.resize import replace_value

# The `place` of each projection's dropout, see `layers.dropout`; the block itself uses 0 to 3.
_PLACES = {"attn.c_attn": 4, "attn.c_proj": 5, "mlp.c_fc": 6, "mlp.c_proj": 7, "attn.q_attn": 8}
_TABLES = ("transformer.wte.weight", "lm_head.weight")
_SLOT = ("lora_kernel_a", "lora_kernel_b", "lora_scale")


@dataclasses.dataclass
class Adapters:
    """The adapters of a model.

    Attributes:
        named: The adapters by name; the current values of the active one are in the slots.
        active: Name of the active adapter, or None.
        merged: Whether its product has been added to the kernels.
        frozen: Weights of the base model that were trainable before.
        replaced: Weights of the base model that adapters replace, by key.
    """

    named: dict[str, Adapter]
    active: str | None
    merged: bool
    frozen: list[keras.Variable]
    replaced: dict[str, np.ndarray]


def projections(model: Any) -> dict[str, Conv1D]:
    """The layers that adapters can change, by checkpoint key without `.weight`.

    Raises:
        ValueError: The model is quantised.
    """
    quantization.require_float(model, "An adapter")
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, Conv1D)]
    return {key_from_path(layer.weight.path).removesuffix(".weight"): layer for layer in layers}


def head_weights(model: Any) -> dict[str, keras.Variable]:
    """The weights beyond the transformer, by checkpoint key."""
    keyed = {key_from_path(weight.path): weight for weight in base_weights(model)}
    return {key: weight for key, weight in keyed.items() if part(key) != "transformer"}


def whole_weights(model: Any) -> dict[str, keras.Variable]:
    """All weights that an adapter can replace, by checkpoint key.

    A token table that is the output matrix, too, has both keys.
    """
    weights = {key_from_path(weight.path): weight for weight in base_weights(model)}
    table = weights["transformer.wte.weight"]
    return {"lm_head.weight": table} | weights if _is_tied(model) else weights


def _is_tied(model: Any) -> bool:
    """Whether the output matrix of a model is its token table."""
    keys = {key_from_path(weight.path) for weight in base_weights(model)}
    return hasattr(model, "lm_head") and "lm_head.weight" not in keys


def base_weights(model: Any) -> list[keras.Variable]:
    """A model's weights without those of adapters."""
    return [weight for weight in model.weights if weight.name not in _SLOT]


def checkpoint_weights(model: Any) -> list[keras.Variable]:
    """The weights of a checkpoint of the whole model.

    Raises:
        ValueError: The active adapter is not merged, so the file would lack it.
    """
    state = model.adapters
    if state is not None and state.active is not None and not state.merged:
        raise value_error(
            "A checkpoint holds a whole model, and the active adapter of this one is not merged.",
            fix="Call tfgpt2.training.lora.merge_adapter(model) first, or save_adapter(model,"
            " directory) for the adapter alone.",
            adapter=state.active,
        )
    return base_weights(model)


def require_no_adapters(model: Any, operation: str) -> None:
    """Checks that a model has no adapters, for operations that change their shapes.

    Args:
        model: The model.
        operation: The operation, as the start of a sentence.

    Raises:
        ValueError: It has adapters.
    """
    if model.adapters is not None:
        raise value_error(
            f"{operation} changes the shape of projections that have adapters.",
            fix="Call tfgpt2.training.lora.unload_adapters(model) first.",
            adapters=sorted(model.adapters.named),
        )


def attach(model: Any, name: str, adapter: Adapter) -> None:
    """Adds an adapter and freezes the base model; `activate` activates it.

    Raises:
        ValueError: The adapter does not fit the model.
    """
    if model.adapters is None:
        model.adapters = Adapters({}, None, False, list(model.trainable_weights), {})
        for weight in model.adapters.frozen:
            weight.trainable = False
    check_fit(model, adapter)
    model.adapters.named[name] = adapter
    weights, replaced = whole_weights(model), model.adapters.replaced
    replaced |= {key: weights[key].numpy() for key in adapter.weights if key not in replaced}
    _fit_slots(model)


def detach(model: Any, name: str) -> None:
    """Removes an inactive adapter; without any, the base model is trainable again."""
    state = model.adapters
    del state.named[name]
    _fit_slots(model)
    if not state.named:
        for weight in state.frozen:
            weight.trainable = True
        model.adapters = None
        _discard_training(model)


def activate(model: Any, name: str | None) -> None:
    """Activates one adapter, or none; the one that was active keeps its current values."""
    state, layers, weights = model.adapters, projections(model), whole_weights(model)
    if state.active is not None:
        state.named[state.active] = current(model)
    adapter = Adapter({}) if name is None else state.named[name]
    before = _training_state(model)
    for key, layer in layers.items():
        if layer.lora_kernel_a is None:
            continue
        used = key in adapter.layers
        _fill(layer, adapter.layers.get(key), adapter.scale(key) if used else 0.0)
        layer.lora_kernel_a.trainable = layer.lora_kernel_b.trainable = used
        layer.lora_dropout = adapter.dropout if used else 0.0
    for key, base in state.replaced.items():
        weights[key].assign(adapter.weights.get(key, base))
        weights[key].trainable = key in adapter.weights
    state.active = name
    if _training_state(model) != before:
        _discard_training(model)


def current(model: Any) -> Adapter:
    """The active adapter, with its current values."""
    adapter = model.adapters.named[model.adapters.active]
    layers, weights = projections(model), whole_weights(model)
    return dataclasses.replace(
        adapter,
        layers={
            key: Factors(
                layers[key].lora_kernel_a.numpy()[:, : old.rank],
                layers[key].lora_kernel_b.numpy()[: old.rank],
                old.alpha,
            )
            for key, old in adapter.layers.items()
        },
        weights={key: weights[key].numpy() for key in adapter.weights},
    )


def add_products(model: Any, sign: int) -> None:
    """Adds the active adapter to the kernels (`sign` 1), or subtracts it again (-1)."""
    state, layers = model.adapters, projections(model)
    adapter = state.named[state.active]
    before = _training_state(model)
    for key in adapter.layers:
        layer, scale = layers[key], adapter.scale(key)
        product = scale * tf.matmul(layer.lora_kernel_a.value, layer.lora_kernel_b.value)
        kernel = tf.cast(layer.weight.value, tf.float32) + sign * product  # [in, out]
        layer.weight.assign(tf.cast(kernel, layer.weight.dtype))
        layer.lora_scale.assign(0.0 if sign > 0 else scale)
        layer.lora_kernel_a.trainable = layer.lora_kernel_b.trainable = sign < 0
    weights = whole_weights(model)
    for key in state.replaced:
        weights[key].trainable = sign < 0 and key in adapter.weights
    state.merged = sign > 0
    if _training_state(model) != before:
        _discard_training(model)


def to_config(model: Any) -> dict[str, Any] | None:
    """The arguments of `from_config`; Keras itself stores the values of the slots.

    Raises:
        ValueError: There are inactive adapters, whose values would be lost.
    """
    state = model.adapters
    if state is None:
        return None
    if list(state.named) != [state.active]:
        raise value_error(
            "Keras' own files hold the active adapter only.",
            fix="Save the adapters with tfgpt2.training.lora.save_adapter, and delete or"
            " unload them before model.save().",
            adapters=sorted(state.named),
            active=state.active,
        )
    adapter = state.named[state.active]
    return {
        "name": state.active,
        "merged": state.merged,
        "layers": {key: [pair.rank, pair.alpha] for key, pair in adapter.layers.items()},
        "weights": sorted(adapter.weights),
        "dropout": adapter.dropout,
        "use_rslora": adapter.use_rslora,
    }


def from_config(model: Any, config: dict[str, Any]) -> None:
    """Creates the slots that `to_config` described."""
    layers, weights = projections(model), whole_weights(model)
    for key, (rank, _) in config["layers"].items():
        check_layer(model, layers, key)
        check_rank(layers[key], key, rank)
    empty = {
        key: Factors(
            np.zeros((layers[key].inputs, rank), np.float32),
            np.zeros((rank, layers[key].outputs), np.float32),
            alpha,
        )
        for key, (rank, alpha) in config["layers"].items()
    }
    own = {key: weights[key].numpy() for key in config["weights"]}
    adapter = Adapter(empty, own, config["dropout"], config["use_rslora"])
    attach(model, config["name"], adapter)
    activate(model, config["name"])
    if config["merged"]:
        add_products(model, 1)  # of zeros; the kernels that Keras loads hold the product


def check_fit(model: Any, adapter: Adapter) -> None:
    """Checks that an adapter's shapes are those of the model.

    Raises:
        ValueError: A projection or layer does not exist, or has another shape, or only one of token
            table and output matrix is replaced where they are one.
    """
    layers, weights = projections(model), whole_weights(model)
    for key, factors in adapter.layers.items():
        check_layer(model, layers, key)
        check_rank(layers[key], key, factors.rank)
        shape = (factors.a.shape[0], factors.b.shape[1])
        expected = (layers[key].inputs, layers[key].outputs)
        if shape != expected:
            raise value_error(
                f"The adapter is for another model: {key!r} has {expected[0]} inputs and"
                f" {expected[1]} outputs here.",
                fix="Load it into the model it was trained on.",
                adapter=list(shape),
            )
    for key, value in adapter.weights.items():
        found = tuple(weights[key].shape) if key in weights else None
        if found != value.shape:
            is_table = key in _TABLES and found is not None
            raise value_error(
                f"The adapter has a layer that the model does not have: {key!r} is"
                f" {list(found) if found else 'absent'} here.",
                fix="Call model.resize_token_embeddings with the adapter's number of tokens first."
                if is_table
                else "Use the model class, and the number of labels, it was trained with.",
                adapter=list(value.shape),
            )
    one, other = (adapter.weights.get(key) for key in _TABLES)
    if _is_tied(model) and not (one is other is None or np.array_equal(one, other)):
        raise value_error(
            "The output matrix of this model is its token table, and the adapter replaces only one"
            " of the two, or each by another.",
            fix="Merge the adapter into its base model with PEFT, and load that.",
            weights=[key for key in _TABLES if key in adapter.weights],
        )


def check_layer(model: Any, layers: dict[str, Conv1D], key: str) -> None:
    """Checks that a model has the projection that an adapter changes.

    Raises:
        ValueError: It does not.
    """
    if key in layers:
        return
    if key.startswith("transformer.h."):
        fix = nearest(key, layers) if len(layers) < 9 else "Load it into its base model."
    else:
        fix = "Merge it into its base model with PEFT, and load that: only projections of blocks"
        fix += " take an adapter."
    raise value_error(
        f"The adapter changes {key!r}, which the model does not have.",
        fix=fix,
        blocks=model.config.n_layer,
    )


def check_rank(layer: Conv1D, key: str, rank: Any) -> None:
    """Checks the rank of an adapter of one projection.

    A rank above the smaller side adds nothing, and a file may ask for any.

    Args:
        layer: The projection.
        key: Its checkpoint key.
        rank: Number of columns of the first factor.

    Raises:
        ValueError: It is not an integer, or is larger than both sides.
    """
    limit = max(layer.inputs, layer.outputs)
    if type(rank) is not int or not 1 <= rank <= limit:
        raise value_error(
            f"The rank of an adapter of {key!r} is an integer from 1 to {limit}, its larger side.",
            fix="Use a smaller rank, such as 8; larger ones add nothing.",
            rank=rank,
        )


def _fit_slots(model: Any) -> None:
    """Gives each projection a slot of the largest rank of its adapters."""
    changed = False
    for key, layer in projections(model).items():
        adapters = model.adapters.named.values()
        rank = max((a.layers[key].rank for a in adapters if key in a.layers), default=0)
        if rank == (0 if layer.lora_kernel_a is None else layer.lora_kernel_a.shape[1]):
            continue
        changed = True
        if layer.lora_kernel_a is None:
            _make_slot(layer, rank)
            layer.lora_place = next(n for end, n in _PLACES.items() if key.endswith(end))
        elif rank:
            for weight, axis in ((layer.lora_kernel_a, 1), (layer.lora_kernel_b, 0)):
                weight.trainable = True
                replace_value(weight, _resized(weight.numpy(), rank, axis))
        else:
            _drop_slot(layer)
    if changed:
        model._discard_compiled()


def _make_slot(layer: Conv1D, rank: int) -> None:
    """Adds the weights of a slot to a built layer, as Keras' own layers do."""
    layer._tracker.unlock()
    # Created trainable, so that gradient tapes watch them; `activate` chooses which of them train.
    options = {"initializer": "zeros", "dtype": "float32"}
    layer.lora_kernel_a = layer.add_weight(
        name="lora_kernel_a", shape=(layer.inputs, rank), **options
    )
    layer.lora_kernel_b = layer.add_weight(
        name="lora_kernel_b", shape=(rank, layer.outputs), **options
    )
    layer.lora_scale = layer.add_weight(name="lora_scale", shape=(), trainable=False, **options)
    layer._tracker.lock()


def _drop_slot(layer: Conv1D) -> None:
    """Removes the weights of a slot."""
    for name in _SLOT:
        layer.remove_parameter(name)
    layer.lora_dropout = 0.0


def _resized(array: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """Cuts an axis to `rank`, or pads it with zeros."""
    array = np.take(array, range(min(rank, array.shape[axis])), axis)
    missing = [(0, rank - size if i == axis else 0) for i, size in enumerate(array.shape)]
    return np.pad(array, missing)


def _fill(layer: Conv1D, factors: Factors | None, scale: float) -> None:
    """Assigns an adapter's factors to a slot, padded with zeros."""
    rank = layer.lora_kernel_a.shape[1]
    if factors is None:
        layer.lora_kernel_a.assign(np.zeros(layer.lora_kernel_a.shape))
        layer.lora_kernel_b.assign(np.zeros(layer.lora_kernel_b.shape))
    else:
        layer.lora_kernel_a.assign(_resized(factors.a, rank, 1))  # [in, rank]
        layer.lora_kernel_b.assign(_resized(factors.b, rank, 0))  # [rank, out]
    layer.lora_scale.assign(scale)


def _training_state(model: Any) -> tuple[Any, ...]:
    """What a traced training step depends on: the trainable weights and the dropout rates."""
    rates = [layer.lora_dropout for layer in projections(model).values()]
    return [id(weight) for weight in model.trainable_weights], rates


def _discard_training(model: Any) -> None:
    """Discards the traced training step; the model must be compiled again."""
    model.train_function, model.optimizer, model.compiled = None, None, False
