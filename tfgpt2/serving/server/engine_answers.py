"""Answers from the engine: the outputs of `generate`, and the pieces of a stream."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import AsyncGenerator, Sequence

import numpy as np

from tfgpt2.serving.server.engine_scheduler import EngineScheduler
from tfgpt2.serving.server.signature import Arrays, Signature
from tfgpt2.serving.server.streaming import TextChunk, partial_stop_string

_TokenTexts = Sequence[tuple[bytes, bytes]]  # written and shown
_COLUMNS = ("token_ids", "token_logprobs", "top_ids", "top_logprobs")  # [B, T, ...]


async def generate_row(scheduler: EngineScheduler, signature: Signature, inputs: Arrays) -> Arrays:
    """Generates one row; returns the outputs of `generate`."""
    async with contextlib.aclosing(scheduler.progress(signature, inputs)) as rows:
        progress = await anext(rows)  # it waits for no pieces: the first is the last
    texts = await scheduler.token_texts(progress.token_ids)
    raw = shown_before(texts, None if progress.stop_cut < 0 else progress.stop_cut)
    text = raw.decode("utf-8", "replace").encode()
    outputs = {
        "text": np.array([text], object),
        "text_bytes": np.array([raw], object),
        "token_ids": progress.token_ids[None],
        "num_tokens": np.array([len(progress.token_ids)], np.int32),
        "prompt_tokens": np.array([progress.prompt_tokens], np.int32),
        "truncated": np.array([progress.truncated], np.int32),
        "logprob": np.sum(progress.token_logprobs, keepdims=True, dtype=np.float32),
        "token_logprobs": progress.token_logprobs[None],
        "finish_reason": np.array([progress.finish_reason.encode()], object),
        "top_ids": None if progress.top_ids is None else progress.top_ids[None],
        "top_logprobs": None if progress.top_logprobs is None else progress.top_logprobs[None],
    }
    return {name: outputs[name] for name in signature.outputs}


def merge_rows(rows: Sequence[Arrays]) -> Arrays:
    """Joins outputs of one row each; shorter rows are filled up with zeros."""
    width = max(row["token_ids"].shape[1] for row in rows)

    def widen(array: np.ndarray) -> np.ndarray:
        missing = [(0, 0), (0, width - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
        return np.pad(array, missing)

    return {
        name: np.concatenate([widen(r[name]) if name in _COLUMNS else r[name] for r in rows])
        for name in rows[0]
    }


async def stream_row(
    scheduler: EngineScheduler, signature: Signature, inputs: Arrays
) -> AsyncGenerator[TextChunk, None]:
    """Streams the text of one row, which is that of `generate_row`.

    Yields:
        Chunks of whole characters, without parts of a stop string; the last one has a finish
        reason, and its text may be empty.
    """
    stops = [stop for stop in inputs["stop"][0] if stop] if "stop" in inputs else []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    sent = 0
    async with contextlib.aclosing(scheduler.progress(signature, inputs, pieces=True)) as rows:
        async for progress in rows:
            reason = progress.finish_reason
            texts = await scheduler.token_texts(progress.token_ids)
            end = progress.stop_cut if progress.stop_cut >= 0 else None
            if reason is None and stops:
                written = b"".join(text for text, _ in texts)
                end = len(written) - partial_stop_string(written, stops)
            raw = shown_before(texts, end)
            text = decoder.decode(raw[sent:], final=reason is not None)
            sent = max(sent, len(raw))
            if text or reason is not None:
                shown = len(texts)
                if reason in (None, "stop"):
                    shown = num_shown([len(shown) for _, shown in texts], len(raw))
                yield TextChunk(
                    text,
                    len(progress.token_ids),
                    progress.prompt_tokens,
                    reason,
                    progress.truncated,
                    progress.token_ids[:shown],
                    progress.token_logprobs[:shown],
                )


def shown_before(texts: _TokenTexts, end: int | None) -> bytes:
    """The shown text before a place in the written one; None is its end.

    Example:
        >>> shown_before([(b"ab", b"ab"), (b"<s>", b""), (b"cd", b"cd")], 6)
        b'abc'
    """
    if end is None:
        return b"".join(shown for _, shown in texts)
    pieces, begin = [], 0
    for written, shown in texts:
        pieces.append(shown[: max(0, end - begin)])
        begin += len(written)
    return b"".join(pieces)


def num_shown(sizes: Sequence[int], length: int) -> int:
    """Counts the tokens that begin within a text.

    Args:
        sizes: Bytes that each token adds to the text.
        length: Bytes of the text.

    Example:
        >>> num_shown([2, 0, 2, 2], 3)
        3
    """
    begins = np.cumsum(sizes) - sizes
    return int(np.count_nonzero(begins < length))
