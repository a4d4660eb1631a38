"""What the HTTP APIs share: large bodies, disconnects, headers of errors, entries of models."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from tfgpt2.serving.server.cancellation import cancel
from tfgpt2.serving.server.serving_error import ServingError, from_exception
from tfgpt2.serving.server.version_manager import VersionManager

_MAX_INLINE = 65536  # bytes of JSON that are parsed in the event loop; more goes to a thread
_DISCONNECTED = "The client closed the connection."


def error_headers(error: ServingError) -> dict[str, str]:
    """Returns the headers that say when to retry or how to authenticate."""
    if error.code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE") and error.http in (429, 503):
        return {"Retry-After": "1"}
    return {"WWW-Authenticate": "Bearer"} if error.code == "UNAUTHENTICATED" else {}


def model_entry(model: VersionManager) -> dict[str, Any]:
    """Returns a model as OpenAI's API lists it."""
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "tfgpt2"}


async def read_body(request: Request) -> bytes:
    """Receives the body of a request.

    Raises:
        ServingError: CANCELLED: the client has left, or took too long.
    """
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise ServingError("CANCELLED", _DISCONNECTED) from error


async def parse_body(body: bytes, parse: Callable[..., Any], *arguments: Any) -> Any:
    """Parses a body, in a thread if it would block the event loop."""
    if len(body) <= _MAX_INLINE:
        return parse(body, *arguments)
    return await asyncio.to_thread(parse, body, *arguments)


async def run_until_disconnect(request: Request, start: Callable[[], Awaitable[Any]]) -> Any:
    """Waits for a result, and cancels the work when the client disconnects.

    The work has ended when this returns, whatever happened.

    Args:
        request: Its body has been read.
        start: Starts the work; not called if the client has left before.

    Raises:
        ServingError: CANCELLED, which no client reads; or the error of the work.
    """
    if await request.is_disconnected():
        raise ServingError("CANCELLED", _DISCONNECTED)
    tasks = [asyncio.ensure_future(start()), asyncio.ensure_future(_wait_for_disconnect(request))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ServingError("CANCELLED", _DISCONNECTED)
        return tasks[0].result()
    except Exception as error:
        raise from_exception(error) from error
    finally:
        await cancel(tasks)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
