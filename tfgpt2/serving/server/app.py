"""The HTTP application: routes and the playground page."""

from __future__ import annotations

from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tfgpt2.serving.server import completions, metrics, openai_errors, rest, tokenizer_api
from tfgpt2.serving.server.access import AccessMiddleware
from tfgpt2.serving.server.server_core import ServerCore
from tfgpt2.serving.server.serving_error import ServingError, cut

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
    tokenizer = tokenizer_api.TokenizerApi(core)

    async def health(request: Request) -> Response:
        ready = core.models.ready()
        return PlainTextResponse("ok" if ready else "no model yet", 200 if ready else 503)

    async def prometheus(request: Request) -> Response:
        return Response(core.metrics.render(), media_type=metrics.CONTENT_TYPE)

    async def other(request: Request) -> Response:
        if not openai_errors.has_openai_errors(request.url.path):
            return await tensorflow.handle(request)
        message = f"Unknown request URL: {cut(request.method)} {cut(request.url.path)}."
        return openai_errors.error_response(ServingError("NOT_FOUND", message))

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/healthz", health),
            Route("/health", health),
            Route("/metrics", prometheus),
            Route("/monitoring/prometheus/metrics", prometheus),
            Route("/v1/models", openai.models),
            Route("/v1/completions", openai.complete, methods=["POST"]),
            Route("/v1/chat/completions", openai.chat, methods=["POST"]),
            Route("/tokenize", tokenizer.tokenize, methods=["POST"]),
            Route("/detokenize", tokenizer.detokenize, methods=["POST"]),
            Route("/tokenizer_info", tokenizer.info),
            # TensorFlow Serving's rules hold for everything else, wrong methods included.
            Route("/{rest:path}", other, methods=methods),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _internal_error},
    )
    checked = AccessMiddleware(app, core.settings)
    origins = core.settings.allowed_origins
    if not origins:
        return checked
    # Answers preflights, which have no key, before anything else is checked.
    return CORSMiddleware(
        checked, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"],
        expose_headers=["Retry-After"],
    )  # fmt: skip


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
