"""From a `LiteRTGraph` to the bytes of a `.tflite` file with its signatures."""

from __future__ import annotations

import tempfile
from typing import Any

import tensorflow as tf

from tfgpt2.errors import explain, nearest, value_error
from tfgpt2.litert import int4
from tfgpt2.litert.contract import QUANTIZATIONS, Contract
from tfgpt2.litert.graph import LiteRTGraph
from tfgpt2.quiet import quiet

_MOST_BYTES = 2**31 - 2**26  # a flatbuffer's offsets are signed and of 32 bits
# Of the largest file on the way: int4 is made of a float32 file.
_BYTES_PER_WEIGHT = {None: 4.0, "float16": 2.0, "int8": 1.0, "int4": 4.0}


def check_quantize(quantize: str | None, config: Any) -> None:
    """Checks how matrices are to be stored.

    Args:
        quantize: How.
        config: The model's configuration.

    Raises:
        ImportError: `"int4"`, and its library is not installed.
        ValueError: It is none of `QUANTIZATIONS`, or the model's widths do not allow it.
    """
    if quantize not in QUANTIZATIONS:
        raise value_error(
            "`quantize` must be None, 'int8', 'float16' or 'int4'.",
            fix=nearest(str(quantize), [name for name in QUANTIZATIONS if name]),
            quantize=quantize,
        )
    if quantize == "int4":
        int4.check_width(config)


def check_size(weights: int, quantize: str | None) -> None:
    """Checks that a file can hold a model.

    Args:
        weights: Numbers in its matrices.
        quantize: How they are stored.

    Raises:
        ValueError: It would be larger than 2 GB.
    """
    size = int(weights * _BYTES_PER_WEIGHT[quantize])
    if size > _MOST_BYTES:
        raise value_error(
            "A .tflite file holds at most 2 GB, also the float32 file that int4 is made of.",
            fix="Export a smaller model."
            if quantize == "int8"
            else "Export with quantize='int8', a quarter of float32.",
            bytes=size,
            quantize=quantize,
        )


def make_functions(graph: LiteRTGraph, contract: Contract, *, score: bool = True) -> dict[str, Any]:
    """The signatures as concrete functions, by name; `score_N` only where `score` is True."""
    functions = {}
    for size in contract.cache_sizes:
        for length in contract.prefill_sizes(size):
            name = contract.signature(f"prefill_{length}", size)
            functions[name] = _trace(_prefill(graph), contract, length, size)
        functions[contract.signature("decode", size)] = _trace(_decode(graph), contract, 1, size)
    if not score:
        return functions
    targets = tf.TensorSpec([contract.batch_size, contract.score], tf.int32)
    functions[f"score_{contract.score}"] = _trace(
        _score(graph), contract, contract.score, contract.context, targets=targets
    )
    return functions


def convert(
    module: tf.Module, functions: dict[str, Any], quantize: str | None, outputs: int
) -> bytes:
    """Converts functions to built-in operations of LiteRT.

    Args:
        module: What owns their variables.
        functions: Concrete functions by the name of their signature.
        quantize: `"int8"` (matrices with a scale per output, activations as they come),
            `"float16"`, `"int4"` (see `int4`), or None.
        outputs: Outputs of the last layer.

    Raises:
        RuntimeError: The converter fails.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        tf.saved_model.save(module, folder, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize in ("int8", "float16"):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            data = converter.convert()
        except Exception as error:  # of many kinds
            raise RuntimeError(
                explain(
                    "TensorFlow's converter cannot make a LiteRT file of this model.",
                    fix="Please report this with the versions of tensorflow and tfgpt2.",
                    error=str(error),
                )
            ) from error
    return int4.quantize(data, outputs) if quantize == "int4" else data


def _prefill(graph: LiteRTGraph) -> Any:
    def prefill(tokens, input_pos, mask, **cache):
        return graph.run(tokens, input_pos, mask, cache)[1]

    return prefill


def _decode(graph: LiteRTGraph) -> Any:
    def decode(tokens, input_pos, mask, **cache):
        hidden, after = graph.run(tokens, input_pos, mask, cache)
        return {"logits": graph.score(hidden)[:, None], **after}  # [B, 1, V]

    return decode


def _score(graph: LiteRTGraph) -> Any:
    def score(tokens, input_pos, mask, targets, **cache):
        hidden, after = graph.run(tokens, input_pos, mask, cache)
        logits = graph.score(hidden)  # [B * N, V]
        chosen = tf.gather(tf.nn.log_softmax(logits), tf.reshape(targets, [-1]), batch_dims=1)
        return {"logprobs": tf.reshape(chosen, targets.shape), **after}  # [B, N]

    return score


def _trace(function: Any, contract: Contract, length: int, size: int, **more: tf.TensorSpec) -> Any:
    """The concrete function of a signature that reads `length` tokens per row."""
    rows = contract.batch_size
    cache = contract.cache_shapes(size)
    specs = {
        "tokens": tf.TensorSpec([rows, length], tf.int32),
        "input_pos": tf.TensorSpec([length], tf.int32),
        "mask": tf.TensorSpec([rows, 1, length, size], tf.float32),
        **{name: tf.TensorSpec(shape, tf.float32) for name, shape in cache.items()},
        **more,
    }
    return tf.function(function, autograph=False).get_concrete_function(**specs)
