"""The HTTP application: paths, key, limits, the page."""

from __future__ import annotations

import hmac
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tfgpt2.serving.server import completions, metrics, rest
from tfgpt2.serving.server.service import Service
from tfgpt2.serving.server.status import ServingError

_OPEN_PATHS = ("/", "/healthz")  # need no key: a page must load to ask for one
_DISCARDED = 64 * 2**20  # bytes of a refused body that are read
_PAGE = ("serving", "playground", "index.html")
_PAGE_HEADERS = {
    # One file with its own script and style, which talks to this server only.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline';"
    " style-src 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def make_app(service: Service) -> ASGIApp:
    """Makes the application of a service.

    Args:
        service: What it asks; started and closed by the caller.
    """
    openai, tensorflow = completions.Completions(service), rest.Rest(service)

    async def health(request: Request) -> Response:
        ready = service.models.ready()
        return PlainTextResponse("ok" if ready else "no model yet", 200 if ready else 503)

    async def figures(request: Request) -> Response:
        return Response(service.metrics.page(), media_type=metrics.CONTENT_TYPE)

    every = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/healthz", health),
            Route("/metrics", figures),
            Route("/monitoring/prometheus/metrics", figures),
            Route("/v1/models", openai.models),
            Route("/v1/completions", openai.complete, methods=["POST"]),
            # Anything else there is for the real server's rules, wrong methods included.
            Route("/{rest:path}", tensorflow.handle, methods=every),
        ],
        exception_handlers={HTTPException: _refused, Exception: _broken},
    )
    return _Guard(app, service.settings.api_key, service.settings.max_body_bytes)


async def _page(request: Request) -> Response:
    """The playground, a file of the package."""
    file = resources.files("tfgpt2").joinpath(*_PAGE)
    if not file.is_file():
        return JSONResponse({"error": "This installation has no playground page."}, 404)
    return Response(file.read_bytes(), media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)


async def _refused(request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    # The log has the details; a client gets no insides.
    return JSONResponse({"error": "Internal error."}, 500)


class _Guard:
    """Checks the key, and ends bodies that are too long before they fill the memory.

    Args:
        app: What it guards.
        key: The key; empty lets everybody in.
        most: Bytes of a body.
    """

    def __init__(self, app: ASGIApp, key: str, most: int):
        self._app, self._key, self._most = app, f"Bearer {key}".encode() if key else b"", most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._key and scope["path"] not in _OPEN_PATHS:
            if not hmac.compare_digest(headers.get(b"authorization", b""), self._key):
                refusal = ServingError("UNAUTHENTICATED", "Send Authorization: Bearer KEY.")
                await _refuse(refusal, scope, receive, send)
                return
        length = headers.get(b"content-length", b"0")
        too_long = ServingError(
            "INVALID_ARGUMENT", f"A request's body may have {self._most} bytes.", http=413
        )
        if not length.isdigit() or int(length) > self._most:
            await _refuse(too_long, scope, receive, send)
            return
        read = 0

        async def limited() -> Message:  # a body sent in chunks does not tell its length
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise too_long
            return message

        try:
            await self._app(scope, limited, send)
        except ServingError as error:  # from `limited`, before any answer began
            await _refuse(error, scope, receive, send)


async def _refuse(error: ServingError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers in the form of the path's contract."""
    # Read on without keeping it: a client that still sends would see a broken connection, and not
    # the answer. One that does not end is cut off.
    left = _DISCARDED
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body"):
            break
    openai = scope["path"] == "/v1/completions"
    answer = (completions if openai else rest).error_response(error)
    answer.headers["Connection"] = "close"
    await answer(scope, receive, send)
