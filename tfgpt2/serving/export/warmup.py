"""The warm-up file: requests that a server runs before it says that it is ready.

TensorFlow Serving reads `assets.extra/tf_serving_warmup_requests`, a TFRecord file of
`PredictionLog`. XLA compiles a program for each shape, so there is a request for each: a batch
size, a prompt bucket and, for `generate`, an output bucket. The few messages are written by hand;
they need no TensorFlow Serving library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.serving.export.signatures.registry import COMPILED, SETTINGS, Options, default_settings
from tfgpt2.text.generator import TextGenerator

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MOST_RECORDS = 1000  # the server refuses a model with more
_UNITS = (" a", "a", " the", "\n", "e", "x ", "0")  # texts of any length are made of one of these


class WarmUp(NamedTuple):
    """One request.

    Attributes:
        signature: Name of the signature.
        inputs: Tensors by name.
    """

    signature: str
    inputs: Mapping[str, tf.Tensor]


def requests(generator: TextGenerator, options: Options) -> list[WarmUp]:
    """Makes a request for every shape that an export compiles.

    Without XLA there is nothing to compile: then it is one request for each signature.

    Args:
        generator: What is exported.
        options: Its signatures.

    Raises:
        ValueError: There are more shapes than a server runs.
    """
    compiled = generator.jit_compile_loop
    sizes = options.batch_sizes if compiled and options.batch_sizes else (1,)
    prompts = _prompts(generator, generator.prompt_buckets if compiled else (1,))
    outputs = _starts(generator.output_buckets) if compiled else (1,)
    # A stop string ends the writing after a token; it is what comes after these texts.
    pieces = {text: _first_piece(generator, text) for text in ("", *prompts)}
    found = []
    for name in options.names:
        if name == "generate":
            for size, prompt, tokens in product(sizes, prompts, outputs):
                if size > 1 or _fits(generator, prompt, tokens):
                    found.append(_continuation(generator, options, pieces, size, prompt, tokens))
        elif name == "detokenize":
            found.append(WarmUp(name, {"ids": tf.zeros([1, 1], tf.int32)}))
        elif name in COMPILED and not (name == "serving_default" and "generate" in options.names):
            for size, prompt in product(sizes, prompts):
                found.append(WarmUp(name, {"text": _column(prompt, size)}))
        else:
            found.append(WarmUp(name, {"text": tf.constant([""])}))
    if len(found) > MOST_RECORDS:
        raise ValueError(
            explain(
                f"A warm-up file holds at most {MOST_RECORDS} requests, one for each shape.",
                fix="Use fewer batch_sizes, prompt_buckets, output_buckets or signatures.",
                requests=len(found),
                batch_sizes=sizes,
                prompt_buckets=generator.prompt_buckets,
                output_buckets=generator.output_buckets,
            )
        )
    return found


def write(directory: Path, model: str, records: Sequence[WarmUp]) -> None:
    """Writes the warm-up file of a SavedModel.

    Args:
        directory: The version directory.
        model: Name of the model.
        records: The requests.
    """
    path = directory / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for record in records:
            file.write(encode(model, record))


def encode(model: str, record: WarmUp) -> bytes:
    """One `PredictionLog` as bytes.

    Args:
        model: Name of the model.
        record: The request.

    Source: tensorflow_serving/apis/prediction_log.proto, predict.proto and model.proto: fields
        `PredictionLog.predict_log` 6, `PredictLog.request` 1, `PredictRequest.model_spec` 1 and
        `inputs` 2, `ModelSpec.name` 1 and `signature_name` 3.
    """
    spec = _field(1, model.encode()) + _field(3, record.signature.encode())
    request = _field(1, spec)
    for name, value in sorted(record.inputs.items()):
        tensor = tf.make_tensor_proto(value.numpy()).SerializeToString()
        request += _field(2, _field(1, name.encode()) + _field(2, tensor))  # an entry of a map
    return _field(6, _field(1, request))


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


def _starts(buckets: Sequence[int]) -> tuple[int, ...]:
    """The smallest size that falls into each bucket."""
    return (1, *(below + 1 for below, _ in pairwise(buckets)))


def _prompts(generator: TextGenerator, buckets: Sequence[int]) -> list[str]:
    """A text for each bucket of prompts."""
    smallest = _starts(buckets)
    return [_text(generator, low, high) for low, high in zip(smallest, buckets, strict=True)]


def _text(generator: TextGenerator, low: int, high: int) -> str:
    """A text of at least `low` and at most `high` tokens."""
    for unit in _UNITS:
        count = low
        while count <= 8 * high:  # one token may hold several units
            tokens = int(generator.tokenizer.tokenize(unit * count).shape[0])
            if low <= tokens <= high:
                return unit * count
            if tokens > high:
                break
            count += max(1, (low - tokens) // 2)
    raise ValueError(
        explain(
            "No text of a size between two prompt buckets was found for the warm-up file.",
            fix="Use prompt_buckets that lie further apart, or warmup=False.",
            smallest=low,
            largest=high,
        )
    )


def _continuation(
    generator: TextGenerator,
    options: Options,
    pieces: Mapping[str, bytes],
    size: int,
    prompt: str,
    tokens: int,
) -> WarmUp:
    """The request of `generate` for one shape.

    One row has the longest prompt and the others ask for the most tokens: together they may be
    more than the context.
    """
    alone = size == 1
    limits = [tokens if alone else 0, *[tokens for _ in range(size - 1)]]
    values = default_settings(generator, options) | {"temperature": 0.0, "min_new_tokens": 0}
    rows = {name: [values[name]] * size for name in options.inputs}
    if "max_new_tokens" in rows:
        rows["max_new_tokens"] = limits
    inputs = {name: tf.constant(row, SETTINGS[name].dtype) for name, row in rows.items()}
    stop = tf.fill([size, 1], pieces[prompt if alone else ""])
    return WarmUp("generate", {"text": _column(prompt, size), **inputs, "stop": stop})


def _fits(generator: TextGenerator, prompt: str, tokens: int) -> bool:
    """Whether one row can have both this prompt and so many new tokens."""
    length = int(generator.tokenizer.tokenize(prompt).shape[0])
    return length + tokens <= generator.model.config.n_positions


def _first_piece(generator: TextGenerator, prompt: str) -> bytes:
    """The text of the likeliest next token, where it is short enough for the smallest table."""
    ids = generator.tokenizer.tokenize((generator.prefix or "") + prompt).numpy().tolist()
    ids = ids[-generator.model.config.n_positions :] or [generator._start_id() or 0]
    logits = generator.model(tf.constant([ids])).logits[0, -1]  # [V]
    raw = generator.tokenizer.detokenize_bytes(tf.argmax(logits)[None, None]).numpy()[0]
    return raw if len(raw) <= 16 else b""


def _column(first: str, size: int) -> tf.Tensor:
    """One text and `size - 1` empty ones: string `[size]`."""
    return tf.constant([first, *["" for _ in range(size - 1)]])
