"""Results as strings in the graph and as records in Python; prompts as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.errors import type_error
from tfgpt2.generation.results import Result, check_finite
from tfgpt2.generation.stop_lists import to_bytes
from tfgpt2.generation.token_texts import shown_length
from tfgpt2.text.generation import Generation
from tfgpt2.text.prompts import FINISH_REASONS, PromptStatus
from tfgpt2.tokenizers.segments import valid_utf8


def result_to_text(tokenizer: Any, result: Result, status: PromptStatus) -> dict[str, tf.Tensor]:
    """Turns generated ids into strings and plain tensors, all with `R` as first axis.

    Args:
        tokenizer: The tokenizer.
        result: What was generated, `R` rows.
        status: The status of the prompts, `B` rows; `R` is a multiple of `B`.

    Returns:
        `text` (valid UTF-8), `text_bytes` (as the model wrote it) string `[R]`; `token_ids` int32
        `[R, T]`; `num_tokens`, `prompt_tokens`, `truncated` int32 `[R]`; `logprob` float32 `[R]`
        and `token_logprobs` `[R, T]` in nats; `finish_reason` string `[R]`; of beam search `score`
        float32 `[R]`; where the program reports them, `top_ids` int32 and `top_logprobs` float32
        `[R, T, N]`.
    """
    width = tf.reduce_max(tf.pad(result.count, [[0, 1]]))
    tokens, logprobs = result.tokens[:, :width], result.logprobs[:, :width]  # [R, T]
    written = tf.range(width)[None] < result.count[:, None]  # [R, T]
    # -1 is not a token; special tokens, the end token among them, are not text.
    raw = tokenizer.detokenize_bytes(tf.where(written, tokens, -1), skip_special_tokens=True)
    raw = _cut(tokenizer, raw, tf.where(written, tokens, -1), result.cut)
    copies = tf.size(result.count) // tf.maximum(tf.size(status.length), 1)
    length, truncated, refusal = (tf.repeat(x, copies) for x in status)  # [R]
    outputs = {
        "text": valid_utf8(raw),
        "text_bytes": raw,
        "token_ids": tokens,
        "num_tokens": result.count,
        "prompt_tokens": length,
        "logprob": tf.reduce_sum(logprobs, axis=1),
        "token_logprobs": logprobs,
        "finish_reason": tf.gather(
            tf.constant(FINISH_REASONS), tf.where(refusal > 0, refusal, result.reason)
        ),
        "truncated": truncated,
    }
    if not isinstance(result.score, tuple):
        outputs["score"] = result.score
    if result.top:
        top = {"top_ids": result.top.ids, "top_logprobs": result.top.logprobs}
        outputs |= {name: value[:, :width] for name, value in top.items()}
    return outputs


def _cut(tokenizer: Any, raw: tf.Tensor, tokens: tf.Tensor, cut: tf.Tensor) -> tf.Tensor:
    """Cuts texts `[R]` where a stop string begins, which may be a special token that is no text."""

    def shorten() -> tf.Tensor:
        size = tf.where(cut >= 0, shown_length(tokenizer, tokens, cut), tf.strings.length(raw))
        return tf.strings.substr(raw, tf.zeros_like(size), size)

    return tf.cond(tf.reduce_any(cut >= 0), shorten, lambda: raw)


def prompts_as_bytes(prompts: Any) -> list[bytes]:
    """Returns one prompt or several as bytes.

    Raises:
        TypeError: They are not strings.
    """
    if isinstance(prompts, (str, bytes)):
        prompts = [prompts]
    parts = prompts if isinstance(prompts, (list, tuple)) else [prompts]
    if any(keras.backend.is_keras_tensor(one) or tf.is_symbolic_tensor(one) for one in parts):
        raise type_error(
            "generate() runs eagerly and cannot be part of a graph.",
            fix="Call the generator: generator(strings) is a Keras model from text to text.",
            prompts=prompts,
        )
    if isinstance(prompts, (tf.Tensor, np.ndarray)) and len(prompts.shape) == 1:
        prompts = np.asarray(prompts).tolist()
    if not isinstance(prompts, (list, tuple)) or not all(
        isinstance(prompt, (str, bytes)) for prompt in prompts
    ):
        raise type_error(
            "Prompts must be a string or a list of strings.",
            fix="For token ids, use model.generate(input_ids).",
            prompts=prompts,
        )
    return [to_bytes(prompt) for prompt in prompts]


def generations(outputs: Mapping[str, tf.Tensor], tokenizer: Any) -> list[Generation]:
    """Makes one record per row of `result_to_text`'s outputs.

    Raises:
        ValueError: The model's scores are not numbers.
    """
    rows = {name: value.numpy() for name, value in outputs.items()}
    check_finite(rows["token_logprobs"])
    names = dict(enumerate(tokenizer.token_bytes))  # the model may have more ids
    return [
        Generation(
            text=rows["text"][i].decode(),
            text_bytes=rows["text_bytes"][i],
            token_ids=rows["token_ids"][i, :count].tolist(),
            prompt_tokens=int(rows["prompt_tokens"][i]),
            truncated=int(rows["truncated"][i]),
            logprob=float(rows["logprob"][i]),
            token_logprobs=rows["token_logprobs"][i, :count].tolist(),
            finish_reason=rows["finish_reason"][i].decode(),
            score=float(rows["score"][i]) if "score" in rows else None,
            top_logprobs=_top_logprobs(rows, i, count) if "top_ids" in rows else None,
            tokens=[names.get(token, b"") for token in rows["token_ids"][i, :count].tolist()],
        )
        for i, count in enumerate(rows["num_tokens"])
    ]


def _top_logprobs(rows: Mapping[str, np.ndarray], i: int, count: int) -> list[dict[int, float]]:
    """The likeliest ids of each token of a row."""
    ids, logprobs = rows["top_ids"][i, :count].tolist(), rows["top_logprobs"][i, :count].tolist()
    return [dict(zip(*pair, strict=True)) for pair in zip(ids, logprobs, strict=True)]
