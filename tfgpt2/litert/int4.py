"""Matrices in 4 bits, by Google's `ai-edge-quantizer`: what TensorFlow's converter does not do.

The matrices of the blocks get a scale for each 32 inputs of an output. The output layer, which
decides between tokens and suffers most, gets int8 with a scale per output.
"""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

from tfgpt2 import extras
from tfgpt2.errors import value_error
from tfgpt2.quiet import quiet

BLOCK = 32  # inputs that share a scale


def check_width(config: Any) -> None:
    """Checks that the inputs of each matrix are whole blocks, and that the library is there.

    Args:
        config: The model's configuration.

    Raises:
        ImportError: `ai-edge-quantizer` is not installed.
        ValueError: They are not.
    """
    extras.require("quantize='int4'", "int4")
    if config.n_embd % BLOCK or config.inner_size % BLOCK:
        raise value_error(
            f"quantize='int4' needs widths that are multiples of {BLOCK}.",
            fix="Export with quantize='int8'.",
            n_embd=config.n_embd,
            n_inner=config.inner_size,
        )


def quantize(data: bytes, outputs: int) -> bytes:
    """Stores the matrices of a float32 file in 4 bits.

    Args:
        data: The `.tflite` file.
        outputs: Outputs of the last layer.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    operation = qtyping.TFLOperationName.FULLY_CONNECTED
    recipe = recipe_manager.RecipeManager()
    recipe.add_dynamic_config(
        regex=".*",
        operation_name=operation,
        num_bits=4,
        granularity=qtyping.QuantGranularity.BLOCKWISE_32,
    )
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for name in sorted(_last_layers(model, schema.BuiltinOperator.FULLY_CONNECTED, outputs)):
        recipe.add_dynamic_config(
            regex=f"^{re.escape(name)};$",
            operation_name=operation,
            num_bits=8,
            granularity=qtyping.QuantGranularity.CHANNELWISE,
        )
    work = quantizer.Quantizer(bytearray(data))
    work.load_quantization_recipe(recipe.get_quantization_recipe())
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # it reports sizes
        return bytes(work.quantize().quantized_model)


def _last_layers(model: Any, fully_connected: int, outputs: int) -> set[str]:
    """Names of what the last layer computes, in every signature."""
    found = set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            if max(code.builtinCode, code.deprecatedBuiltinCode) != fully_connected:
                continue
            if graph.tensors[operator.inputs[1]].shape[0] == outputs:
                found.add(graph.tensors[operator.outputs[0]].name.decode())
    return found
