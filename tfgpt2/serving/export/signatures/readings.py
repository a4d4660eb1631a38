"""Signatures that read a text and say what the model makes of it, without writing on.

    next_token   the likeliest tokens after a text
    embed        a text as a vector
    inspect      every token of a text: how likely it was, and what was expected in its place

Each is a `Core` of `tfgpt2.serving.export.batching`: strings to ids, a compiled function, ids to
strings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.generation.scoring import left_align, next_tokens, text_vectors, token_scores
from tfgpt2.serving.export.batching import Core, Tensors
from tfgpt2.text.generator import TextGenerator
from tfgpt2.text.prompts import Prompts, read_prompts
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer
from tfgpt2.tokenizers.pretokenize import valid_utf8

TEXT = tf.TensorSpec([None], tf.string, name="text")


class _Reading(NamedTuple):
    """Texts as the model reads them.

    Attributes:
        prompts: What is read; an empty text is the start token.
        own: int32 `[B]`, tokens of the text itself that are read, 0 for an empty one.
    """

    prompts: Prompts
    own: tf.Tensor


def next_token(generator: TextGenerator, top: int) -> Core:
    """The `top` likeliest tokens after each text."""
    program = _program(generator, next_tokens, top=top)

    def run(inputs: Tensors) -> Tensors:
        prompts, _ = _read(generator, inputs["text"])
        ids, logprobs = program(prompts.ids, prompts.mask)  # [B, N]
        something = prompts.length[:, None] > 0  # no token and no start token: nothing to go by
        raw = _token_bytes(generator.tokenizer, tf.where(something, ids, -1))  # [B, N]
        return {
            "token_ids": tf.where(something, ids, 0),
            "tokens": tf.reshape(valid_utf8(tf.reshape(raw, [-1])), tf.shape(raw)),
            "token_bytes": raw,
            "probabilities": tf.where(something, tf.exp(logprobs), 0.0),
            "logprobs": tf.where(something, logprobs, 0.0),
            "prompt_tokens": prompts.length,
            "truncated": prompts.truncated,
        }

    return _core(run)


def embed(generator: TextGenerator) -> Core:
    """The last layer's state of the last token, and the mean of all tokens' states."""
    program = _program(generator, text_vectors)

    def run(inputs: Tensors) -> Tensors:
        prompts, own = _read(generator, inputs["text"])
        last, mean = program(prompts.ids, prompts.mask)  # [B, D]
        return {"last": last, "mean": mean, "num_tokens": own, "truncated": prompts.truncated}

    return _core(run)


def inspect(generator: TextGenerator, top: int) -> Core:
    """Every token's log-probability and rank, and the `top` likeliest in its place."""
    program = _program(generator, token_scores, top=top)

    def run(inputs: Tensors) -> Tensors:
        prompts, own = _read(generator, inputs["text"])
        found = program(prompts.ids, prompts.mask)
        logprobs, ranks, ids, top_logprobs = (left_align(values, own) for values in found)
        tokens = left_align(prompts.ids + 1, own) - 1  # [B, T], -1 after a row's end
        follows = (ranks > 0)[..., None]  # [B, T, 1]
        return {
            "token_bytes": _token_bytes(generator.tokenizer, tokens),  # [B, T]
            "token_logprobs": logprobs,
            "ranks": ranks,
            "top_bytes": _token_bytes(generator.tokenizer, tf.where(follows, ids, -1)),
            "top_probabilities": tf.where(follows, tf.exp(top_logprobs), 0.0),  # [B, T, N]
            "num_tokens": own,
            "truncated": prompts.truncated,
        }

    wide = ("token_bytes", "token_logprobs", "ranks", "top_bytes", "top_probabilities")
    most = generator.prompt_buckets[-1]
    return Core(run, (TEXT,), {"text": ""}, wide, lambda outputs: outputs["num_tokens"], most)


def _core(run: Callable[[Tensors], Tensors]) -> Core:
    """A core without outputs that grow with the text."""
    return Core(run, (TEXT,), {"text": ""}, (), lambda outputs: outputs["truncated"])


def _program(generator: TextGenerator, function: Callable[..., Any], **static: int) -> Any:
    """Compiles a function of `tfgpt2.generation.scoring` for a generator's model."""
    compiled = generator.jit_compile_loop
    return tf.function(
        functools.partial(function, generator.model, **static),
        input_signature=[tf.TensorSpec([None, None], tf.int32)] * 2,
        jit_compile=compiled,
        autograph=False,
    )


def _read(generator: TextGenerator, text: tf.Tensor) -> _Reading:
    """Tokenizes texts; what exceeds the context is dropped on the left."""
    tokens = generator.tokenizer.tokenize(text)  # [B, (P)]
    prompts = read_prompts(
        tokens,
        tf.ones_like(tokens.row_lengths(), tf.int32),
        context=generator.model.config.n_positions + 1,  # nothing is written: it may be full
        start_id=generator._start_id(),
        truncate=True,
        buckets=generator.prompt_buckets,
    )
    return _Reading(prompts, tf.where(tokens.row_lengths() > 0, prompts.length, 0))


def _token_bytes(tokenizer: TFGPT2Tokenizer, ids: tf.Tensor) -> tf.Tensor:
    """The bytes of each token: int32 `[...]` -> string `[...]`; -1 has none."""
    flat = tokenizer.detokenize_bytes(tf.reshape(ids, [-1, 1]))  # [B * T]
    return tf.ensure_shape(tf.reshape(flat, tf.shape(ids)), ids.shape)
