"""Streaming from a SavedModel without the engine: a call of `generate` for every few tokens.

`stream_rows` streams the rows of all exports; see `engine_answers` for those with the engine.

Each call continues the prompt and the *committed* tokens. With `generate_ids` these are all tokens:
they are read as ids. Exports without it read text, and tokens are committed when the text so far
tokenizes to the very ids that the model generated; where it does not (the text ends within a
character, or the tokenizer would split it differently), nothing is committed, and the next call
generates the uncommitted tokens again and some more. Hence:
- a greedy stream equals the text of one request, as long as prompt and text fit the model's context
  (beyond it, one request ends, and a stream continues from the end of the text);
- a sampled stream differs from one request with the same seed once tokens are committed: noise
  counts steps from 0 in each call, so each prompt gets its own seed. The same stream gives the same
  text again, though.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import numpy as np

from tfgpt2.serving.chunks import chunk_seed, incomplete_suffix
from tfgpt2.serving.server.cancellation import cancel
from tfgpt2.serving.server.serving_error import ServingError, from_exception
from tfgpt2.serving.server.signature import Arrays
from tfgpt2.serving.server.text_model import (
    GENERATE_IDS,
    MAX_NEW_TOKENS,
    TextModel,
    read_ids,
    write_ids,
)

_MAX_TOKENS = 256  # of one call


class TextChunk(NamedTuple):
    """A part of a streamed text.

    Attributes:
        text: Whole characters, no part of a stop string.
        num_tokens: Tokens generated so far.
        prompt_tokens: Tokens of the prompt.
        finish_reason: None until the text ends, then that of the signature.
        truncated: Tokens of the prompt that were dropped; of the engine, like the next two.
        token_ids: int32 `[T]`, the tokens of the text so far.
        token_logprobs: float32 `[T]`, nats.
    """

    text: str
    num_tokens: int
    prompt_tokens: int
    finish_reason: str | None = None
    truncated: int = 0
    token_ids: np.ndarray | None = None
    token_logprobs: np.ndarray | None = None


class _GeneratedTokens:
    """The generated tokens of a row, and how many of them are committed.

    Args:
        prompt: Input `text` or `ids`, one row.
        prompt_ids: The prompt's tokens; empty if nothing can be committed.

    Attributes:
        by_ids: Whether committed tokens are read as ids.
    """

    def __init__(self, prompt: Arrays, prompt_ids: list[int]):
        self._prompt, self._prompt_ids = prompt, prompt_ids
        self.by_ids = "ids" in prompt
        self.tokens: list[bytes] = []
        self._ids: list[int] = []
        self.num_committed = 0

    @property
    def text(self) -> bytes:
        """All bytes after the prompt."""
        return b"".join(self.tokens)

    def next_prompt(self) -> Arrays:
        """The prompt of the next call, an input of one row."""
        if not self.num_committed:
            return self._prompt
        if self.by_ids:
            ids = write_ids([*self._prompt_ids, *self._ids[: self.num_committed]])
            return {"ids": np.array([ids], object)}
        text = self._prompt["text"][0] + b"".join(self.tokens[: self.num_committed])
        return {"text": np.array([text], object)}

    def update(self, ids: list[int], tokens: list[bytes]) -> None:
        """Replaces the uncommitted tokens by those of a call.

        They repeat what was generated before, except for rounding: a batch of another size may
        round differently. What the client has received is kept.
        """
        known = len(self.tokens) - self.num_committed
        if tokens[:known] == self.tokens[self.num_committed :]:
            self.tokens[self.num_committed :] = tokens
            self._ids[self.num_committed :] = ids
        elif len(tokens) > known:
            self.tokens += tokens[known:]
            self._ids += ids[known:]

    async def commit(self, model: TextModel) -> bool:
        """Commits all tokens that can be read again; returns whether all are committed.

        Ids always can; a text where it is tokenized to the very tokens.
        """
        if not self._prompt_ids:
            return False
        if self.by_ids or await self._is_own_tokenization(model):
            self.num_committed = len(self.tokens)
        return self.num_committed == len(self.tokens)

    async def _is_own_tokenization(self, model: TextModel) -> bool:
        if incomplete_suffix(self.text):
            return False
        read = await model.tokenize(self._prompt["text"][0] + self.text)
        return read == [*self._prompt_ids, *self._ids]


async def stream_rows(
    model: TextModel, inputs: Arrays, **options: Any
) -> AsyncIterator[tuple[int, TextChunk]]:
    """Streams all rows at the same time; the arguments are those of `stream`.

    The rows are not generated faster than the chunks are taken, and no longer than the generator
    lives: close it.

    Yields:
        Row and chunk, in order of arrival.
    """
    unfinished = len(inputs[MAX_NEW_TOKENS])
    queue: asyncio.Queue[tuple[int, TextChunk | ServingError]] = asyncio.Queue(unfinished)

    async def stream_row(row: int) -> None:
        one = {name: array[row : row + 1] for name, array in inputs.items()}
        chunks = stream(model, one, **options) if model.stream is None else model.stream(one)
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    await queue.put((row, chunk))
        except Exception as error:
            await queue.put((row, from_exception(error)))

    tasks = [asyncio.ensure_future(stream_row(row)) for row in range(unfinished)]
    try:
        while unfinished:
            row, chunk = await queue.get()
            if isinstance(chunk, ServingError):
                raise chunk
            unfinished -= chunk.finish_reason is not None
            yield row, chunk
    finally:  # also when the client has disconnected
        await cancel(tasks)


async def stream(
    model: TextModel,
    inputs: Arrays,
    stop_strings: list[bytes],
    *,
    chunk_tokens: int,
    commit: bool = True,
) -> AsyncIterator[TextChunk]:
    """Streams the text of one row.

    Args:
        model: With the signatures `generate`, `detokenize` and `tokenize`.
        inputs: Inputs of `generate` or `generate_ids`, one row; `stop_strings` replace its `stop`.
        stop_strings: None of them empty.
        chunk_tokens: Tokens of each chunk, 1 or more.
        commit: False continues the prompt itself in each call, for settings that distinguish
            generated tokens from those of the prompt.

    Yields:
        Chunks; the last one has a finish reason, and its text may be empty.
    """
    inputs = dict(inputs)
    prompt = {name: inputs.pop(name) for name in ("text", "ids") if name in inputs}
    max_new_tokens = int(inputs[MAX_NEW_TOKENS][0])
    seed = int(inputs["seed"][0]) if "seed" in inputs else -1
    seed = secrets.randbits(62) if seed < 0 else seed
    if "stop" in inputs:
        # Searched for here, too: one may start in one call and end in the next. Only the model sees
        # special tokens, which are no part of the text.
        inputs["stop"] = np.array([stop_strings or [b""]], object)
    # An empty prompt hides a start token, so nothing is committed.
    prompt_ids: list[int] = []
    if commit:
        if "ids" in prompt:
            prompt_ids = read_ids(prompt["ids"][0])
        else:
            prompt_ids = await model.tokenize(prompt["text"][0])
    generated = _GeneratedTokens(prompt, prompt_ids)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    sent, call_tokens, prompt_tokens = 0, chunk_tokens, None
    while True:
        known, committed = len(generated.tokens), generated.num_committed
        limit = min(max_new_tokens - committed, known - committed + call_tokens)
        outputs = await model.generate(_call_inputs(inputs, generated, limit, seed))
        if prompt_tokens is None:
            prompt_tokens = int(outputs["prompt_tokens"][0])
            if GENERATE_IDS in model.signatures and prompt_tokens == len(prompt_ids):
                generated.by_ids = True
        ids = outputs["token_ids"][0, : int(outputs["num_tokens"][0])].astype(np.int32)
        generated.update(ids.tolist(), await model.token_bytes(ids))
        text = generated.text
        reason = _finish_reason(outputs, generated, known, max_new_tokens)
        end = _find_stop_string(generated.tokens, known, stop_strings)
        if end is not None:
            reason = "stop"
        elif reason == "stop" and "text_bytes" in outputs:
            before = generated.tokens[: generated.num_committed]
            end = len(b"".join(before)) + len(outputs["text_bytes"][0])
        else:
            end = len(text) - (partial_stop_string(text, stop_strings) if reason is None else 0)
        chunk = decoder.decode(text[sent : max(sent, end)], final=reason is not None)
        sent = max(sent, end)
        if chunk or reason is not None:
            yield TextChunk(chunk, len(generated.tokens), prompt_tokens, reason)
        if reason is not None:
            return
        # Repeating uncommitted tokens costs more each time: larger calls keep the sum small.
        all_committed = await generated.commit(model)
        call_tokens = chunk_tokens if all_committed else min(2 * call_tokens, _MAX_TOKENS)


def _call_inputs(inputs: Arrays, generated: _GeneratedTokens, limit: int, seed: int) -> Arrays:
    """Returns the inputs of the next call."""
    committed = generated.num_committed
    changed = generated.next_prompt() | {MAX_NEW_TOKENS: np.array([limit], np.int32)}
    if "min_new_tokens" in inputs:
        minimum = max(0, int(inputs["min_new_tokens"][0]) - committed)
        changed["min_new_tokens"] = np.array([minimum], np.int32)
    if "seed" in inputs:
        changed["seed"] = np.array([chunk_seed(seed, committed)], np.int64)
    return inputs | changed


def _finish_reason(
    outputs: Arrays, generated: _GeneratedTokens, known: int, max_new_tokens: int
) -> str | None:
    """Returns why there is no next call; None if there is one."""
    reason = outputs["finish_reason"][0].decode()
    if reason == "prompt_too_long" and generated.num_committed:  # the text fills the context
        return "length"
    if reason != "length":
        return reason
    ended = len(generated.tokens) >= max_new_tokens or len(generated.tokens) == known
    return "length" if ended else None


def _find_stop_string(tokens: list[bytes], known: int, stop_strings: list[bytes]) -> int | None:
    """Returns where the first stop string starts, in bytes; None if there is none.

    As the compiled loop does: token by token, and of the strings that a token completes, the one
    that starts first.
    """
    if not stop_strings:
        return None
    text, longest = b"".join(tokens), max(map(len, stop_strings))
    end = sum(map(len, tokens[:known]))
    for token in tokens[known:]:
        low, end = max(0, end - longest + 1), end + len(token)
        starts = [text.find(stop, low, end) for stop in stop_strings]
        if max(starts) >= 0:
            return min(start for start in starts if start >= 0)
    return None


def partial_stop_string(text: bytes, stop_strings: list[bytes]) -> int:
    """Counts the bytes at the end that may be the start of a stop string."""
    longest = max(map(len, stop_strings), default=1)
    for size in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stop_strings):
            return size
    return 0
