"""The warm-up file: requests that a server runs before it reports that it is ready.

TensorFlow Serving reads `assets.extra/tf_serving_warmup_requests`, a TFRecord file of
`PredictionLog`. XLA compiles a program for each shape, so there is a request for each. The few
messages are encoded by hand, without a TensorFlow Serving library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.serving.export.signatures.base import SignatureFn, WarmupShapes
from tfgpt2.text.generator import TextGenerator

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_REQUESTS = 1000  # the server refuses a model with more
_UNITS = (" a", "a", " the", "\n", "e", "x ", "0")  # a text of any length repeats one of these


class WarmupRequest(NamedTuple):
    """One request.

    Attributes:
        signature: Name of the signature.
        inputs: Tensors by name.
    """

    signature: str
    inputs: Mapping[str, tf.Tensor]


def make_requests(
    generator: TextGenerator, signatures: Mapping[str, SignatureFn]
) -> list[WarmupRequest]:
    """Makes a request for every shape that an export compiles.

    Without XLA nothing is compiled: then it is one request for each signature.

    Args:
        generator: The text generator to export.
        signatures: Its signatures.

    Raises:
        ValueError: There are more shapes than a server runs.
    """
    shapes = WarmupShapes((1,), (_text(generator, 1, 1),), (1,))
    if generator.jit_compile_loop:
        sizes = next(iter(signatures.values())).options.batch_sizes or (1,)
        shapes = WarmupShapes(
            sizes, _prompts(generator), _smallest_in_each(generator.output_buckets)
        )
    found = [
        WarmupRequest(name, inputs)
        for name, signature in signatures.items()
        for inputs in signature.warmup_inputs(shapes)
    ]
    if len(found) > MAX_REQUESTS:
        raise value_error(
            f"A warm-up file holds at most {MAX_REQUESTS} requests, one for each shape.",
            fix="Use fewer batch_sizes, prompt_buckets, output_buckets or signatures.",
            requests=len(found),
            batch_sizes=shapes.batch_sizes,
            prompt_buckets=generator.prompt_buckets,
            output_buckets=generator.output_buckets,
        )
    return found


def write_requests(directory: Path, model: str, requests: Sequence[WarmupRequest]) -> None:
    """Writes the warm-up file of a SavedModel.

    Args:
        directory: The version directory.
        model: Name of the model.
        requests: The requests.
    """
    path = directory / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for request in requests:
            file.write(encode(model, request))


def encode(model: str, request: WarmupRequest) -> bytes:
    """Encodes one `PredictionLog`.

    Args:
        model: Name of the model.
        request: The request.

    Source: tensorflow_serving/apis/prediction_log.proto, predict.proto and model.proto: fields
        `PredictionLog.predict_log` 6, `PredictLog.request` 1, `PredictRequest.model_spec` 1 and
        `inputs` 2, `ModelSpec.name` 1 and `signature_name` 3.
    """
    message = _field(1, _field(1, model.encode()) + _field(3, request.signature.encode()))
    for name, value in sorted(request.inputs.items()):
        tensor = tf.make_tensor_proto(value.numpy()).SerializeToString()
        message += _field(2, _field(1, name.encode()) + _field(2, tensor))  # an entry of a map
    return _field(6, _field(1, message))


def _field(number: int, data: bytes) -> bytes:
    """A protocol-buffer field of bytes: tag, length, bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """A number in groups of seven bits, the last group without the eighth."""
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def _smallest_in_each(buckets: Sequence[int]) -> tuple[int, ...]:
    """The smallest size that falls into each bucket."""
    return (1, *(below + 1 for below, _ in pairwise(buckets)))


def _prompts(generator: TextGenerator) -> tuple[str, ...]:
    """A text for each prompt bucket."""
    buckets = generator.prompt_buckets
    sizes = zip(_smallest_in_each(buckets), buckets, strict=True)
    return tuple(_text(generator, low, high) for low, high in sizes)


def _text(generator: TextGenerator, low: int, high: int) -> str:
    """A text of at least `low` and at most `high` tokens."""
    for unit in _UNITS:
        count = low
        while count <= 8 * high:  # one token may hold several units
            text = tf.constant([unit * count])
            tokens = int(generator.tokenizer.tokenize_prompts(text).row_splits[1])
            if low <= tokens <= high:
                return unit * count
            if tokens > high:
                break
            count += max(1, (low - tokens) // 2)
    problem = "No text of a size between two prompt buckets was found for the warm-up file."
    fix = "Use prompt_buckets that lie further apart, or warmup=False."
    raise value_error(problem, fix=fix, smallest=low, largest=high)
