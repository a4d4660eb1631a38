"""Models whose matrices are int8: made from float models, refused where they would be wrong.

What becomes int8 are the matrices of the blocks and the table of tokens, with a tied or a separate
output matrix: see `tfgpt2.nn.int8` for the arithmetic. Layer norms, biases, positions and the
small heads of tasks stay as they are. In the state of such a model, and in its checkpoints,
`<layer>.weight` is replaced by `<layer>.weight_int8`, int8 `[out, in]`, and `<layer>.weight_scale`,
float32 `[out]`; a weight is their product. The names differ from a float checkpoint's so that no
loader takes the whole numbers for the weights. `config.json` carries `quantization_config`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints.names import key_from_path
from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain, nearest
from tfgpt2.nn.int8 import MOST_INPUTS, Int8Matrix
from tfgpt2.nn.layers import Conv1D

MODES = ("int8",)
FIELD = "quantization_config"
SETTINGS = {
    "quant_method": "tfgpt2_int8",
    "weights": "int8, symmetric, one scale per output",
    "activations": "int8, symmetric, one scale per row, dynamic",
}


def check_mode(mode: Any) -> str:
    """Checks the name of a kind of quantisation.

    Raises:
        ValueError: There is no such kind here.
    """
    if mode in MODES:
        return mode
    raise ValueError(
        explain("A model is quantised to 'int8'.", fix=nearest(str(mode), MODES), mode=mode)
    )


def is_planned(config: GPT2Config) -> bool:
    """Whether a configuration describes a quantised model.

    Raises:
        ValueError: It describes one of another library.
    """
    settings = getattr(config, FIELD, None)
    if settings is None:
        return False
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if method != SETTINGS["quant_method"]:
        raise ValueError(
            explain(
                "The checkpoint is quantised in a way that this package does not read.",
                fix="Load the float checkpoint and call model.quantize('int8').",
                quantization_config=settings,
            )
        )
    return True


def matrices(model: Any) -> list[Int8Matrix]:
    """The layers of a model that can be int8, always in the same order."""
    maps = [layer for layer in model._flatten_layers() if isinstance(layer, Conv1D)]
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    if tables[1] is None or tables[1] is tables[0]:
        tables.pop()
    return maps + tables


def plan(model: Any) -> None:
    """Makes the matrices of a model int8 before they are built."""
    for layer in matrices(model):
        layer.is_int8 = True


def quantize(model: Any) -> None:
    """Turns a float model into a quantised one, one matrix at a time.

    Raises:
        ValueError: It is quantised already, has adapters, or a weight is no number.
    """
    check(model)
    for layer in matrices(model):
        layer.to_int8()
    model.config._foreign[FIELD] = dict(SETTINGS)
    model.trainable = False


def quantized_copy(model: Any) -> Any:
    """A quantised model with the numbers of another, which stays as it is.

    Args:
        model: A float model, or a quantised one, which is copied exactly.

    Raises:
        ValueError: It has adapters, or a weight is no number.
    """
    copy = type(model)(
        GPT2Config.from_dict(model.config.to_dict() | {FIELD: dict(SETTINGS)}), dtype="float32"
    )
    if not model.is_quantized:
        check(model)
        for old, new in zip(matrices(model), matrices(copy), strict=True):
            new.fill_int8(old.float_matrix())
    values = {key_from_path(weight.path): weight.value for weight in model.weights}
    for weight in copy.weights:
        key = key_from_path(weight.path)
        if key in values:
            weight.assign(tf.cast(values[key], weight.dtype))
    return copy


def check(model: Any) -> None:
    """Raises for a float model that cannot be quantised as it is."""
    refuse(model, "A second quantisation")
    if model.adapters is not None:
        raise ValueError(
            explain(
                "A model with adapters cannot be quantised: int8 kernels take no adapter.",
                fix="Merge the adapter with tfgpt2.training.lora.merge_adapter(model), save the"
                " model, load it and quantise that; or unload the adapters.",
                adapters=sorted(model.adapters.named),
            )
        )
    for layer in matrices(model):
        largest, inputs = float(tf.reduce_max(tf.abs(layer.weight.value))), layer.matrix_shape()[1]
        if not np.isfinite(largest) or inputs > MOST_INPUTS:
            raise ValueError(
                explain(
                    "Only a matrix of finite numbers, with at most"
                    f" {MOST_INPUTS} inputs, can be quantised.",
                    fix="Check the checkpoint, or where the training diverged.",
                    weight=layer.weight.path,
                    largest=largest,
                    inputs=inputs,
                )
            )


def refuse(model: Any, what: str) -> None:
    """Raises when a model is quantised, for what only a float model can do.

    Args:
        model: The model.
        what: What is refused, as the start of a sentence.
    """
    if model.is_quantized:
        raise ValueError(
            explain(
                f"{what} needs a float model, and this one is quantised to int8.",
                fix="Do it with the float model, then quantise the result.",
                model=model.name,
            )
        )
