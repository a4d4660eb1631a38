"""`POST /v1/completions` and `GET /v1/models`, in OpenAI's form.

A completion is a call of the signature `generate`, with one row for each text that is asked for;
all rows share batches with everybody else's. A setting that the export does not take is an error
unless it asks for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tfgpt2.serving.server import completion_request, json_tensors, token_logprobs
from tfgpt2.serving.server.completion_request import CompletionRequest
from tfgpt2.serving.server.rest import (
    in_thread_if_large,
    model_entry,
    retry_headers,
    unless_disconnected,
)
from tfgpt2.serving.server.saved_model import Arrays, Servable, Signature
from tfgpt2.serving.server.service import Caller, Service, Target
from tfgpt2.serving.server.status import ServingError, from_exception, invalid
from tfgpt2.serving.server.streaming import Piece, stream

# Field of a request -> input of `generate`, and the value that asks for nothing.
_SETTINGS = {
    "max_tokens": ("max_new_tokens", None),
    "min_tokens": ("min_new_tokens", 0),
    "temperature": ("temperature", None),
    "top_k": ("top_k", 0),
    "top_p": ("top_p", 1.0),
    "min_p": ("min_p", 0.0),
    "repetition_penalty": ("repetition_penalty", 1.0),
    "presence_penalty": ("presence_penalty", 0.0),
    "frequency_penalty": ("frequency_penalty", 0.0),
}
_TYPES = {  # OpenAI's names for kinds of errors
    400: "invalid_request_error", 401: "authentication_error", 404: "invalid_request_error",
    413: "invalid_request_error", 429: "rate_limit_error",
}  # fmt: skip
_SEEDS = 2**62
_DONE = b"data: [DONE]\n\n"


class Choice(NamedTuple):
    """One finished text.

    Attributes:
        prompt: The prompt's bytes.
        text: The continuation.
        raw: The same as the model wrote it.
        ids: Its tokens, those of a stop string included.
        logprobs: Log-probability of each token.
        prompt_tokens: Tokens of the prompt that were read.
        truncated: Tokens of the prompt that were dropped.
        reason: The signature's finish reason.
    """

    prompt: bytes
    text: str
    raw: bytes
    ids: np.ndarray
    logprobs: np.ndarray
    prompt_tokens: int
    truncated: int
    reason: str


class Completions:
    """The handlers of OpenAI's paths.

    Args:
        service: What they ask.
    """

    def __init__(self, service: Service):
        self._service = service

    async def models(self, request: Request) -> Response:
        """Lists the models."""
        entries = [model_entry(model) for model in self._service.models]
        return JSONResponse({"object": "list", "data": entries})

    async def complete(self, request: Request) -> Response:
        """Writes texts; errors are `{"error": {...}}`."""
        try:
            body = await request.body()
            document = await in_thread_if_large(body, json_tensors.parse_json)
            asked = completion_request.parse(document)
            most = self._service.settings.max_new_tokens
            if asked.max_tokens > most:
                raise invalid(
                    f"`max_tokens` must be at most {most} on this server."
                    f" Received: {asked.max_tokens}.",
                    param="max_tokens",
                )
            if asked.stream:
                return await self._stream(request, asked)
            with self._service.counted("completions", asked.model):
                answer = await unless_disconnected(request, self._answer(asked))
            return JSONResponse(answer)
        except ServingError as error:
            return error_response(error)

    async def _answer(self, asked: CompletionRequest) -> dict[str, Any]:
        with self._hold(asked) as servable:
            ask = Caller(self._service, servable)
            prompts = await _prompt_bytes(ask, asked)
            rows = [prompt for prompt in prompts for _ in range(asked.best_of)]
            inputs = _inputs(servable.signatures["generate"], asked, rows)
            # A row each: rows may be more than a batch holds, and they share batches anyway.
            outputs = await _all(
                ask("generate", {name: array[row : row + 1] for name, array in inputs.items()})
                for row in range(len(rows))
            )
            written = [_choice(one, prompt) for one, prompt in zip(outputs, rows, strict=True)]
            chosen = [
                choice
                for start in range(0, len(rows), asked.best_of)
                for choice in _best(written[start : start + asked.best_of], asked.n)
            ]
            entries = await _all(
                self._entry(ask, asked, number, choice) for number, choice in enumerate(chosen)
            )
        read = sum(choice.prompt_tokens for choice in written[:: asked.best_of])
        return _envelope(asked) | {
            "choices": list(entries),
            "usage": _usage(read, sum(len(choice.ids) for choice in written)),
        }

    async def _entry(
        self, ask: Caller, asked: CompletionRequest, number: int, choice: Choice
    ) -> dict[str, Any]:
        """A text as the answer holds it."""
        logprobs = None
        if asked.logprobs is not None:
            logprobs = await token_logprobs.describe(
                ask, choice.prompt, choice.raw, choice.ids, choice.logprobs,
                alternatives=asked.logprobs, echo=asked.echo,
            )  # fmt: skip
        prompt = choice.prompt.decode("utf-8", "replace") if asked.echo else ""
        entry = {
            "index": number,
            "text": prompt + choice.text,
            "logprobs": logprobs,
            "finish_reason": _reason(choice.reason),
        }
        # Not in OpenAI's form, which has no way to say that a prompt lost its beginning.
        return entry | ({"truncated": choice.truncated} if choice.truncated else {})

    async def _stream(self, request: Request, asked: CompletionRequest) -> Response:
        """Begins a stream; what goes wrong before the first piece has a status of its own."""
        events = self._events(asked)
        first = await unless_disconnected(request, anext(events))

        async def all_events() -> AsyncIterator[bytes]:
            yield first
            async for event in events:
                yield event

        # Without this a proxy may keep pieces until it has many.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(all_events(), media_type="text/event-stream", headers=headers)

    async def _events(self, asked: CompletionRequest) -> AsyncIterator[bytes]:
        envelope, begun = _envelope(asked), False
        read: dict[int, int] = {}
        wrote: dict[int, int] = {}
        try:
            with self._service.counted("completions", asked.model), self._hold(asked) as servable:
                for name in ("tokenize", "detokenize"):
                    _require(servable, name, "stream")
                if "score" in servable.signatures["generate"].outputs:
                    raise invalid("A search with beams does not stream.", param="stream")
                ask = Caller(self._service, servable)
                prompts = await _prompt_bytes(ask, asked)
                rows = [prompt for prompt in prompts for _ in range(asked.n)]
                inputs = _inputs(servable.signatures["generate"], asked, rows)
                async for number, piece in _pieces(ask, asked, inputs):
                    _check_reason(piece.finish_reason)
                    read[number], wrote[number] = piece.prompt_tokens, piece.num_tokens
                    choice = {"index": number, "text": piece.text, "logprobs": None,
                              "finish_reason": _reason(piece.finish_reason)}  # fmt: skip
                    begun = True
                    yield _event(envelope | {"choices": [choice]})
            if asked.include_usage:
                prompt_tokens = sum(read[number] for number in sorted(read)[:: asked.n])
                usage = _usage(prompt_tokens, sum(wrote.values()))
                yield _event(envelope | {"choices": [], "usage": usage})
            yield _DONE
        except ServingError as error:
            if not begun:
                raise
            yield _event(_error(error))  # the status line is gone: tell it as an event

    @contextlib.contextmanager
    def _hold(self, asked: CompletionRequest) -> Iterator[Servable]:
        """Holds the model's newest version, which must be able to generate."""
        try:
            self._service.models.get(asked.model)
        except ServingError as error:
            message = f"The model `{asked.model}` does not exist."
            raise ServingError("NOT_FOUND", message, param="model") from error
        with self._service.lease(Target(asked.model)) as servable:
            _require(servable, "generate", "model")
            shape = servable.signatures["generate"].outputs["text"].shape
            if shape is not None and len(shape) > 1:
                raise invalid(
                    "This model was exported with several texts for each prompt, which completions"
                    " cannot tell apart. Use :predict.",
                    param="model",
                )
            yield servable


def error_response(error: ServingError) -> Response:
    """An error in OpenAI's form."""
    return JSONResponse(_error(error), error.http, headers=retry_headers(error))


def _error(error: ServingError) -> dict[str, Any]:
    missing = error.code == "NOT_FOUND"
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(error.http, "server_error"),
            "param": error.param,
            "code": "model_not_found" if missing else error.code.lower(),
        }
    }


async def _all(calls: Any) -> list[Any]:
    """Runs calls together; when one fails, the others are given up."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _pieces(
    ask: Caller, asked: CompletionRequest, inputs: Arrays
) -> AsyncIterator[tuple[int, Piece]]:
    """Pieces of all rows as they come."""
    stops = [stop.encode() for stop in asked.stop]
    # These count what was written, not what was read: each request must begin at the prompt.
    can_move = not (asked.presence_penalty or asked.frequency_penalty)
    queue: asyncio.Queue[tuple[int, Piece | ServingError]] = asyncio.Queue()

    async def write(row: int) -> None:
        settings = {name: array[row : row + 1] for name, array in inputs.items()}
        size = ask.stream_tokens
        try:
            async for piece in stream(ask, settings, stops, size=size, can_move=can_move):
                queue.put_nowait((row, piece))
        except Exception as error:
            queue.put_nowait((row, from_exception(error)))

    rows = len(inputs["text"])
    tasks = [asyncio.ensure_future(write(row)) for row in range(rows)]
    try:
        while rows:
            row, piece = await queue.get()
            if isinstance(piece, ServingError):
                raise piece
            rows -= piece.finish_reason is not None
            yield row, piece
    finally:  # also when the client has left: nothing is written for nobody
        for task in tasks:
            task.cancel()


async def _prompt_bytes(ask: Caller, asked: CompletionRequest) -> list[bytes]:
    """The prompts as bytes; token ids become the text that they stand for."""
    prompts = []
    for prompt in asked.prompts:
        if isinstance(prompt, str):
            prompts.append(prompt.encode())
            continue
        _require(ask.servable, "detokenize", "prompt")
        ids = np.array([prompt], np.int32).reshape(1, -1)
        prompts.append(bytes((await ask("detokenize", {"ids": ids}))["text_bytes"][0]))
    return prompts


def _inputs(signature: Signature, asked: CompletionRequest, rows: list[bytes]) -> Arrays:
    """All inputs of `generate`: what was asked, and the export's defaults."""
    count = len(rows)
    given: dict[str, Any] = {"text": np.array(rows, object)}
    for field, (name, off) in _SETTINGS.items():
        value = getattr(asked, field)
        if name in signature.inputs:
            dtype = signature.inputs[name].dtype.as_numpy_dtype
            given[name] = np.full(count, value, dtype)
        elif value != off:
            raise _not_taken(field)
    for field, name, asks in (
        ("stop", "stop", asked.stop),
        ("seed", "seed", asked.seed is not None),
    ):
        if asks and name not in signature.inputs:
            raise _not_taken(field)
    if asked.seed is not None:
        given["seed"] = np.array([(asked.seed + row) % _SEEDS for row in range(count)], np.int64)
    if "stop" in signature.inputs:
        stops = [stop.encode() for stop in asked.stop] or [b""]
        given["stop"] = np.repeat(np.array([stops], object), count, axis=0)  # [B, Q]
    if "seed" in signature.inputs and asked.seed is None:
        given["seed"] = np.full(count, -1, np.int64)
    missing = set(signature.inputs) - set(given) - set(signature.defaults)
    if missing:
        raise ServingError(
            "FAILED_PRECONDITION",
            f"`generate` of this model needs {sorted(missing)}, which completions cannot give.",
        )
    return {
        name: given[name] if name in given else np.repeat(signature.defaults[name], count, axis=0)
        for name in signature.inputs
    }


def _not_taken(field: str) -> ServingError:
    return invalid(
        f"`{field}` is no input of this model's export. Leave it out, or export the model with it.",
        param=field,
    )


def _require(servable: Servable, signature: str, field: str) -> None:
    if signature not in servable.signatures:
        raise invalid(
            f"`{field}` needs the signature `{signature}`, which this model was exported without.",
            param=field,
        )


def _choice(outputs: Arrays, prompt: bytes) -> Choice:
    """Reads one row's outputs."""
    reason = outputs["finish_reason"][0].decode()
    _check_reason(reason)
    count = int(outputs["num_tokens"][0])
    return Choice(
        prompt=prompt,
        text=outputs["text"][0].decode(),
        raw=outputs["text_bytes"][0],
        ids=outputs["token_ids"][0, :count],
        logprobs=outputs["token_logprobs"][0, :count],
        prompt_tokens=int(outputs["prompt_tokens"][0]),
        truncated=int(outputs["truncated"][0]),
        reason=reason,
    )


def _check_reason(reason: str | None) -> None:
    """Raises where the model wrote nothing because of the prompt."""
    if reason == "prompt_too_long":
        raise invalid("The prompt leaves no room in the model's context.", param="prompt")
    if reason == "empty_prompt":
        raise invalid("The prompt has no token, and the model no start token.", param="prompt")


def _best(choices: list[Choice], n: int) -> list[Choice]:
    """The `n` texts with the highest log-probability per token, best first."""
    if n == len(choices):
        return choices
    return sorted(choices, key=lambda one: -float(one.logprobs.sum()) / max(1, len(one.ids)))[:n]


def _reason(reason: str | None) -> str | None:
    """A finish reason in OpenAI's words."""
    return None if reason is None else "length" if reason == "length" else "stop"


def _usage(read: int, wrote: int) -> dict[str, int]:
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def _envelope(asked: CompletionRequest) -> dict[str, Any]:
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": asked.model,
    }


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
