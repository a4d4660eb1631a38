"""int8 quantisation of whole models, and the check for operations that need a float model.

Quantised are the matrices of the blocks and the token table, with a tied or a separate output
matrix: see `tfgpt2.nn.int8` for the arithmetic. Layer norms, biases, positions and the small task
heads stay as they are. In the state of such a model, and in its checkpoints, `<layer>.weight` is
replaced by `<layer>.weight_int8`, int8 `[out, in]`, and `<layer>.weight_scale`, float32 `[out]`; a
weight is their product. The names differ from a float checkpoint's so that no loader mistakes the
integers for the weights. `config.json` contains `quantization_config`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints.names import key_from_path
from tfgpt2.config import GPT2Config
from tfgpt2.errors import nearest, value_error
from tfgpt2.nn.int8 import MAX_INPUTS, Int8Matrix
from tfgpt2.nn.layers import Conv1D

MODES = ("int8",)
FIELD = "quantization_config"
SETTINGS = {
    "quant_method": "tfgpt2_int8",
    "weights": "int8, symmetric, one scale per output",
    "activations": "int8, symmetric, one scale per row, dynamic; a single row in float32",
}


def check_mode(mode: Any) -> str:
    """Checks the name of a quantisation mode.

    Raises:
        ValueError: There is no such mode.
    """
    if mode in MODES:
        return mode
    raise value_error("A model is quantised to 'int8'.", fix=nearest(str(mode), MODES), mode=mode)


def is_configured(config: GPT2Config) -> bool:
    """Whether a configuration describes a quantised model.

    Raises:
        ValueError: It describes one quantised by another library.
    """
    settings = getattr(config, FIELD, None)
    if settings is None:
        return False
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if method != SETTINGS["quant_method"]:
        raise value_error(
            "The checkpoint has a quantisation that this package does not read.",
            fix="Load the float checkpoint and call model.quantize('int8').",
            quantization_config=settings,
        )
    return True


def int8_layers(model: Any) -> list[Int8Matrix]:
    """The layers of a model whose matrices are quantised, in a fixed order."""
    projections = [layer for layer in model._flatten_layers() if isinstance(layer, Conv1D)]
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    if tables[1] is None or tables[1] is tables[0]:
        tables.pop()
    return projections + tables


def prepare(model: Any) -> None:
    """Makes the layers of a model that is not built yet create int8 matrices."""
    for layer in int8_layers(model):
        layer.is_int8 = True


def quantize(model: Any) -> None:
    """Quantises a float model in place, one matrix at a time.

    Raises:
        ValueError: It is quantised already, has adapters, or a weight is not finite.
    """
    check_quantizable(model)
    for layer in int8_layers(model):
        layer.to_int8()
    model.config._unknown[FIELD] = dict(SETTINGS)
    model.trainable = False


def quantized_copy(model: Any) -> Any:
    """Returns a quantised copy of a model.

    Args:
        model: A float model, or a quantised one, which is copied exactly.

    Raises:
        ValueError: It has adapters, or a weight is not finite.
    """
    copy = type(model)(
        GPT2Config.from_dict(model.config.to_dict() | {FIELD: dict(SETTINGS)}), dtype="float32"
    )
    if not model.is_quantized:
        check_quantizable(model)
        for old, new in zip(int8_layers(model), int8_layers(copy), strict=True):
            new.fill_int8(old.float_matrix())
    values = {key_from_path(weight.path): weight.value for weight in model.weights}
    for weight in copy.weights:
        key = key_from_path(weight.path)
        if key in values:
            weight.assign(tf.cast(values[key], weight.dtype))
    return copy


def check_quantizable(model: Any) -> None:
    """Checks that a model can be quantised.

    Raises:
        ValueError: It is quantised already, has adapters, or a weight is not finite.
    """
    require_float(model, "A second quantisation")
    if model.adapters is not None:
        raise value_error(
            "A model with adapters cannot be quantised: int8 kernels take no adapter.",
            fix="Merge the adapter with tfgpt2.training.lora.merge_adapter(model), save the"
            " model, load it and quantise that; or unload the adapters.",
            adapters=sorted(model.adapters.named),
        )
    for layer in int8_layers(model):
        weight, inputs = layer.weight.value, layer.matrix_shape()[1]
        # Without the matrix of absolute values, whose memory TensorFlow would keep.
        largest = float(tf.maximum(tf.reduce_max(weight), -tf.reduce_min(weight)))
        if not np.isfinite(largest) or inputs > MAX_INPUTS:
            raise value_error(
                "Only a matrix of finite numbers, with at most"
                f" {MAX_INPUTS} inputs, can be quantised.",
                fix="Check the checkpoint, or where the training diverged.",
                weight=layer.weight.path,
                largest=largest,
                inputs=inputs,
            )


def require_float(model: Any, operation: str) -> None:
    """Checks that a model is not quantised, for operations that need float weights.

    Args:
        model: The model.
        operation: The operation, as the start of a sentence.

    Raises:
        ValueError: It is quantised.
    """
    if model.is_quantized:
        raise value_error(
            f"{operation} needs a float model, and this one is quantised to int8.",
            fix="Do it with the float model, then quantise the result.",
            model=model.name,
        )
