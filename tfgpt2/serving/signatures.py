"""The signatures of the SavedModel: tensors in, tensors out, every first axis the rows.

`saved_models/README.md` is their contract. Every input and output has rank 1 or more and the same
first axis, so a server can put rows of different requests, with different settings, into one
batch. Settings are `[B]`, or `[1]` for all rows.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfgpt2.generation.options import ROW_OPTIONS
from tfgpt2.text import TextGenerator

SIGNATURES = ("serving_default", "generate", "score", "tokenize", "detokenize")
_TEXT = tf.TensorSpec([None], tf.string, name="text")


def build(generator: TextGenerator) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """Makes the signature functions of a generator.

    Args:
        generator: Whose settings are the defaults.

    Returns:
        One `tf.function` with a fixed input signature for each name of `SIGNATURES`.
    """
    return {
        "serving_default": _serving_default(generator),
        "generate": _generate(generator),
        "score": _score(generator),
        "tokenize": _tokenize(generator),
        "detokenize": _detokenize(generator),
    }


def _serving_default(generator: TextGenerator) -> Callable[..., dict[str, tf.Tensor]]:
    @tf.function(input_signature=[_TEXT], autograph=False)
    def serving_default(text: tf.Tensor) -> dict[str, tf.Tensor]:
        return _continue(generator, text, *_defaults(generator))

    return serving_default


def _generate(generator: TextGenerator) -> Callable[..., dict[str, tf.Tensor]]:
    options, default_stop = _defaults(generator)
    specs = [tf.TensorSpec([None], option.dtype, name) for name, option in ROW_OPTIONS.items()]

    # Python's own defaults become `SignatureDef.defaults`, which gRPC clients may rely on.
    @tf.function(
        input_signature=[_TEXT, *specs, tf.TensorSpec([None, None], tf.string, "stop")],
        autograph=False,
    )
    def generate(
        text: tf.Tensor,
        max_new_tokens: tf.Tensor = options["max_new_tokens"],
        min_new_tokens: tf.Tensor = options["min_new_tokens"],
        temperature: tf.Tensor = options["temperature"],
        top_k: tf.Tensor = options["top_k"],
        top_p: tf.Tensor = options["top_p"],
        min_p: tf.Tensor = options["min_p"],
        repetition_penalty: tf.Tensor = options["repetition_penalty"],
        seed: tf.Tensor = options["seed"],
        stop: tf.Tensor = default_stop,
    ) -> dict[str, tf.Tensor]:
        given = (max_new_tokens, min_new_tokens, temperature, top_k, top_p, min_p,
                 repetition_penalty, seed)  # fmt: skip
        return _continue(generator, text, dict(zip(ROW_OPTIONS, given, strict=True)), stop)

    return generate


def _score(generator: TextGenerator) -> Callable[..., dict[str, tf.Tensor]]:
    @tf.function(input_signature=[_TEXT], autograph=False)
    def score(text: tf.Tensor) -> dict[str, tf.Tensor]:
        return generator.scores(text)

    return score


def _tokenize(generator: TextGenerator) -> Callable[..., dict[str, tf.Tensor]]:
    tokenizer = generator.tokenizer

    @tf.function(input_signature=[_TEXT], autograph=False)
    def tokenize(text: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = tokenizer.tokenize(text)  # [B, (T)]
        return {
            "ids": ids.to_tensor(tokenizer.pad_token_id),  # [B, T]
            "num_tokens": tf.cast(ids.row_lengths(), tf.int32),
        }

    return tokenize


def _detokenize(generator: TextGenerator) -> Callable[..., dict[str, tf.Tensor]]:
    tokenizer = generator.tokenizer

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")], autograph=False)
    def detokenize(ids: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "text": tokenizer.detokenize(ids, skip_special_tokens=True),
            "text_bytes": tokenizer.detokenize_bytes(ids, skip_special_tokens=True),
        }

    return detokenize


def _continue(
    generator: TextGenerator, text: tf.Tensor, options: dict[str, tf.Tensor], stop: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Runs the pipeline; `[1]` settings are spread over the rows."""
    rows = tf.shape(text)[0]
    spread = {name: tf.broadcast_to(value, [rows]) for name, value in options.items()}
    stops = tf.broadcast_to(stop, [rows, tf.shape(stop)[1]])  # [B, Q]
    return generator.pipeline(text, spread, stops)


def _defaults(generator: TextGenerator) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """The generator's settings as tensors `[1]`, and its stop strings `[1, Q]`."""
    options = {
        name: tf.constant([value], ROW_OPTIONS[name].dtype)
        for name, value in generator.default_options().items()
    }
    return options, tf.constant([generator.default_stops()], tf.string)
