"""Access to the HTTP application: API key, browsers, length of bodies."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tfgpt2.serving.server import openai_errors, rest
from tfgpt2.serving.server.api_key import has_key
from tfgpt2.serving.server.browser_checks import BrowserChecks
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.settings import ServerSettings

_PUBLIC_PATHS = ("/", "/healthz", "/health")  # need no key: the page must load to ask for one
_MAX_DISCARDED = 64 * 2**20  # bytes of a rejected body that are read
_MAX_DIGITS = 18  # of a length; Python refuses to parse thousands


class AccessMiddleware:
    """Checks who sends a request, and rejects bodies that are too long while they are received.

    With an API key requests must have it; without one, browsers are checked (`BrowserChecks`).

    Args:
        app: The wrapped application.
        settings: Configuration of the server.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings):
        self._app, self._max_body_bytes = app, settings.max_body_bytes
        self._key = settings.api_key
        self._browsers = BrowserChecks(
            settings.host, settings.allowed_hosts, settings.allowed_origins
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or rejects it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check_sender(scope, headers)
        except ServingError as error:
            await _reject(error, scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        too_long = ServingError(
            "INVALID_ARGUMENT",
            f"The body of a request must not exceed {self._max_body_bytes} bytes.",
            http=413,
        )
        if not length.isdigit() or len(length) > _MAX_DIGITS or int(length) > self._max_body_bytes:
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

    def _check_sender(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        if not self._key:
            self._browsers.check(scope["method"], headers)
        elif scope["path"] not in _PUBLIC_PATHS:
            if not has_key(headers.get(b"authorization", b""), self._key):
                raise ServingError("UNAUTHENTICATED", "Send Authorization: Bearer KEY.")


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
    api = openai_errors if openai_errors.has_openai_errors(scope["path"]) else rest
    response = api.error_response(error)
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
