"""The HTTP application: routes, API key, body limit, the playground page."""

from __future__ import annotations

from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tfgpt2.serving.server import completions, metrics, rest
from tfgpt2.serving.server.api_key import has_key
from tfgpt2.serving.server.server_core import ServerCore
from tfgpt2.serving.server.serving_error import ServingError

_PUBLIC_PATHS = ("/", "/healthz")  # need no key: the page must load to ask for one
_MAX_DISCARDED = 64 * 2**20  # bytes of a rejected body that are read
_PAGE = ("serving", "playground", "index.html")
_PAGE_HEADERS = {
    # One file with its own script and style, which connects to this server only.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline';"
    " style-src 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def make_app(core: ServerCore) -> ASGIApp:
    """Makes the HTTP application.

    Args:
        core: Runs the requests; started and closed by the caller.
    """
    openai, tensorflow = completions.CompletionsApi(core), rest.RestApi(core)

    async def health(request: Request) -> Response:
        ready = core.models.ready()
        return PlainTextResponse("ok" if ready else "no model yet", 200 if ready else 503)

    async def prometheus(request: Request) -> Response:
        return Response(core.metrics.render(), media_type=metrics.CONTENT_TYPE)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/healthz", health),
            Route("/metrics", prometheus),
            Route("/monitoring/prometheus/metrics", prometheus),
            Route("/v1/models", openai.models),
            Route("/v1/completions", openai.complete, methods=["POST"]),
            # TensorFlow Serving's rules hold for everything else, wrong methods included.
            Route("/{rest:path}", tensorflow.handle, methods=methods),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _internal_error},
    )
    return _AccessMiddleware(app, core.settings.api_key, core.settings.max_body_bytes)


async def _page(request: Request) -> Response:
    """Returns the playground, a file of the package."""
    file = resources.files("tfgpt2").joinpath(*_PAGE)
    if not file.is_file():
        return JSONResponse({"error": "This installation has no playground page."}, 404)
    return Response(file.read_bytes(), media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)


async def _http_error(request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    # The details are in the log only.
    return JSONResponse({"error": "Internal error."}, 500)


class _AccessMiddleware:
    """Checks the API key, and rejects bodies that are too long while they are received.

    Args:
        app: The wrapped application.
        key: The API key; with an empty one all requests are allowed.
        max_body_bytes: Bytes of a body.
    """

    def __init__(self, app: ASGIApp, key: str, max_body_bytes: int):
        self._app, self._key, self._max_body_bytes = app, key, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or rejects it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._key and scope["path"] not in _PUBLIC_PATHS:
            if not has_key(headers.get(b"authorization", b""), self._key):
                error = ServingError("UNAUTHENTICATED", "Send Authorization: Bearer KEY.")
                await _reject(error, scope, receive, send)
                return
        length = headers.get(b"content-length", b"0")
        too_long = ServingError(
            "INVALID_ARGUMENT",
            f"The body of a request must not exceed {self._max_body_bytes} bytes.",
            http=413,
        )
        if not length.isdigit() or int(length) > self._max_body_bytes:
            await _reject(too_long, scope, receive, send)
            return
        read = 0

        async def limited() -> Message:  # a chunked body has no length header
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body_bytes:
                raise too_long
            return message

        try:
            await self._app(scope, limited, send)
        except ServingError as error:  # from `limited`, before any response
            await _reject(error, scope, receive, send)


async def _reject(error: ServingError, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends an error in the format of the path's API."""
    # Read the rest of the body, up to a limit: a client that is still sending would see a broken
    # connection instead of the response.
    left = _MAX_DISCARDED
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body"):
            break
    api = completions if scope["path"] == "/v1/completions" else rest
    response = api.error_response(error)
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
