"""`POST /v1/completions`, `POST /v1/chat/completions` and `GET /v1/models`, in OpenAI's format.

A completion calls the signature `generate` with one row for each requested text; all rows share
batches with those of other requests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tfgpt2.serving.server import chat_request, completion_choice, completion_request, http
from tfgpt2.serving.server.answer_formats import ChatFormat, CompletionFormat
from tfgpt2.serving.server.cancellation import gather
from tfgpt2.serving.server.completion_choice import Choice, openai_finish_reason, usage
from tfgpt2.serving.server.completion_inputs import (
    PromptInput,
    generate_inputs,
    prompt_inputs,
)
from tfgpt2.serving.server.completion_request import CompletionRequest
from tfgpt2.serving.server.json_request import parse_json
from tfgpt2.serving.server.openai_errors import error_object, error_response
from tfgpt2.serving.server.server_core import ModelSpec, ServerCore
from tfgpt2.serving.server.serving_error import ServingError, cut, invalid
from tfgpt2.serving.server.settings import NO_CHAT
from tfgpt2.serving.server.signature import Signature
from tfgpt2.serving.server.streaming import TextChunk, stream_rows
from tfgpt2.serving.server.text_model import GENERATE_IDS, TextModel
from tfgpt2.serving.server.token_logprobs import completion_logprobs

_Parse = Callable[[dict[str, Any]], CompletionRequest]
_DONE = b"data: [DONE]\n\n"


class CompletionsApi:
    """Handlers of OpenAI's paths.

    Args:
        core: Runs the requests.
    """

    def __init__(self, core: ServerCore):
        self._core = core

    async def models(self, request: Request) -> Response:
        """Lists the models."""
        entries = [http.model_entry(model) for model in self._core.models]
        return JSONResponse({"object": "list", "data": entries})

    async def complete(self, request: Request) -> Response:
        """Completes prompts; errors are `{"error": {...}}`."""
        return await self._answer(request, completion_request.parse, CompletionFormat())

    async def chat(self, request: Request) -> Response:
        """Writes the next message of a conversation."""
        return await self._answer(request, self._parse_chat, ChatFormat())

    def _parse_chat(self, document: dict[str, Any]) -> CompletionRequest:
        setting, name = self._core.settings.chat_template, document.get("model")
        if setting == NO_CHAT:
            raise invalid("This server has no chats. Use /v1/completions.", param="messages")
        templates, special_tokens = {}, {}
        if isinstance(name, str) and name in self._core.settings.models:
            with self._core.lease(ModelSpec(name)) as servable:
                templates, special_tokens = servable.chat_templates, servable.special_tokens
        templates = chat_request.templates_in_use(setting, templates)
        return chat_request.parse(document, templates, special_tokens)

    async def _answer(self, request: Request, parse: _Parse, form: CompletionFormat) -> Response:
        try:
            document = await http.parse_body(await http.read_body(request), parse_json)
            completion = parse(document)
            limit = self._core.settings.max_new_tokens
            if completion.max_tokens < 0:
                completion = dataclasses.replace(completion, max_tokens=limit)
            if completion.max_tokens > limit:
                raise invalid(
                    f"`max_tokens` must be at most {limit} on this server."
                    f" Received: {completion.max_tokens}.",
                    param="max_tokens",
                )
            if completion.stream:
                return await self._stream(request, completion, form)
            with self._core.measure(form.name, completion.model):
                content = await http.run_until_disconnect(
                    request, lambda: self._complete(completion, form)
                )
            return JSONResponse(content)
        except ServingError as error:
            return error_response(error)

    async def _complete(self, request: CompletionRequest, form: CompletionFormat) -> dict[str, Any]:
        with self._lease(request) as model:
            prompts = await prompt_inputs(model, request, self._core.settings.max_body_bytes)
            rows = [prompt for prompt in prompts for _ in range(request.best_of)]
            inputs = generate_inputs(_signature(model, rows), request, rows)
            # One call for each row: there may be more rows than a batch holds.
            outputs = await gather(
                model.generate({name: array[row : row + 1] for name, array in inputs.items()})
                for row in range(len(rows))
            )
            choices = list(map(completion_choice.read_choice, outputs, rows))
            best = [
                choice
                for start in range(0, len(rows), request.best_of)
                for choice in completion_choice.best_choices(
                    choices[start : start + request.best_of], request.n
                )
            ]
            entries = await gather(
                _choice_entry(model, request, form, index, choice)
                for index, choice in enumerate(best)
            )
        prompt_tokens = sum(choice.prompt_tokens for choice in choices[:: request.best_of])
        completion_tokens = sum(len(choice.token_ids) for choice in choices)
        return form.envelope(request.model) | {
            "choices": entries,
            "usage": usage(prompt_tokens, completion_tokens),
        }

    async def _stream(
        self, request: Request, completion: CompletionRequest, form: CompletionFormat
    ) -> Response:
        """Starts a stream; errors before the first chunk have an HTTP status of their own."""
        events = self._events(completion, form)
        try:
            first = await http.run_until_disconnect(request, lambda: anext(events))
        except BaseException:
            await events.aclose()
            raise
        return _EventStream(first, events)

    async def _events(
        self, request: CompletionRequest, form: CompletionFormat
    ) -> AsyncGenerator[bytes, None]:
        envelope, started = form.envelope(request.model, chunk=True), False
        last: dict[int, TextChunk] = {}  # by row
        try:
            with (
                self._core.measure(form.name, request.model),
                self._lease(request) as model,
            ):
                _check_stream(model, request)
                prompts = await prompt_inputs(model, request, self._core.settings.max_body_bytes)
                rows = [prompt for prompt in prompts for _ in range(request.n)]
                chunks = stream_rows(
                    model,
                    generate_inputs(_signature(model, rows), request, rows),
                    stop_strings=[stop.encode() for stop in request.stop],
                    chunk_tokens=self._core.settings.stream_tokens,
                    # The penalties count generated tokens, not those of the prompt.
                    commit=not (request.presence_penalty or request.frequency_penalty),
                )
                async with contextlib.aclosing(chunks):
                    async for row, chunk in chunks:
                        completion_choice.check_finish_reason(chunk.finish_reason)
                        reason = openai_finish_reason(chunk.finish_reason)
                        text, logprobs, first = chunk.text, None, row not in last
                        if request.echo and first:
                            text = rows[row].text.decode("utf-8", "replace") + text
                        if request.logprobs is not None:
                            logprobs = await _chunk_logprobs(
                                model, request, rows[row], chunk, last.get(row)
                            )
                        choice = form.chunk(row, text, logprobs, reason, first=first)
                        last[row] = chunk
                        event = envelope | {"choices": [choice]}
                        if request.stream_options.continuous_usage_stats:
                            event["usage"] = usage(chunk.prompt_tokens, chunk.num_tokens)
                        started = True
                        yield _event(event)
            if request.stream_options.include_usage:
                counts = usage(
                    sum(last[row].prompt_tokens for row in sorted(last)[:: request.n]),
                    sum(chunk.num_tokens for chunk in last.values()),
                )
                yield _event(envelope | {"choices": [], "usage": counts})
            yield _DONE
        except ServingError as error:
            if not started:
                raise
            yield _event(error_object(error))  # the HTTP status is sent already

    @contextlib.contextmanager
    def _lease(self, request: CompletionRequest) -> Iterator[TextModel]:
        """Leases the newest version of the model, which must be able to generate."""
        try:
            self._core.models.get(request.model)
        except ServingError as error:
            message = f"The model `{cut(request.model)}` does not exist."
            raise ServingError("NOT_FOUND", message, param="model") from error
        with self._core.lease(ModelSpec(request.model)) as servable:
            model = self._core.text_model(servable)
            model.require("generate", "model")
            shape = model.signatures["generate"].outputs["text"].shape
            if shape is not None and len(shape) > 1:
                raise invalid(
                    "This model was exported with several texts for each prompt, which completions"
                    " do not support. Use :predict.",
                    param="model",
                )
            yield model


class _EventStream(StreamingResponse):
    """Server-sent events; generating them ends with the response, however that ends.

    Args:
        first: The first event.
        events: The others.
    """

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None]):
        self._events = events

        async def all_events() -> AsyncIterator[bytes]:
            yield first
            async for event in events:
                yield event

        # Proxies must not buffer the chunks.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(all_events(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:  # Starlette leaves an unfinished generator to the garbage collector
            await self._events.aclose()


async def _choice_entry(
    model: TextModel,
    request: CompletionRequest,
    form: CompletionFormat,
    index: int,
    choice: Choice,
) -> dict[str, Any]:
    logprobs = None
    if request.logprobs is not None:
        logprobs = await completion_logprobs(
            model, choice, alternatives=request.logprobs, echo=request.echo
        )
    prompt = choice.prompt.text.decode("utf-8", "replace") if request.echo else ""
    reason = openai_finish_reason(choice.finish_reason)
    entry = form.choice(index, prompt + choice.text, logprobs, reason)
    # OpenAI's format has no field for a prompt that lost its beginning.
    return entry | ({"truncated": choice.truncated} if choice.truncated else {})


def _check_stream(model: TextModel, request: CompletionRequest) -> None:
    """Checks that a model can stream what is asked for.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    if "score" in model.signatures["generate"].outputs:
        raise invalid("Beam search cannot be streamed.", param="stream")
    if model.stream is not None:
        return
    for name in ("tokenize", "detokenize"):
        model.require(name, "stream")
    for name, off in (("logprobs", None), ("echo", False)):
        if getattr(request, name) is not off:
            raise invalid(
                f"`{name}` is streamed by the engine only, which this model lacks or which is off.",
                param=name,
            )


async def _chunk_logprobs(
    model: TextModel,
    request: CompletionRequest,
    prompt: PromptInput,
    chunk: TextChunk,
    last: TextChunk | None,
) -> dict[str, Any]:
    """The log-probabilities of the tokens of a chunk, after those of the last one."""
    choice = Choice(
        prompt, "", b"", chunk.token_ids, chunk.token_logprobs, chunk.prompt_tokens,
        chunk.truncated, "length",
    )  # fmt: skip
    found = await completion_logprobs(
        model, choice, alternatives=request.logprobs, echo=request.echo
    )
    sent = 0
    if last is not None:
        sent = len(found["tokens"]) - len(chunk.token_ids) + len(last.token_ids)
    return {name: values and values[sent:] for name, values in found.items()}


def _signature(model: TextModel, rows: list[PromptInput]) -> Signature:
    """The signature that takes the prompts of a request, which are all texts or all ids."""
    return model.signatures["generate" if rows[0].ids is None else GENERATE_IDS]


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
