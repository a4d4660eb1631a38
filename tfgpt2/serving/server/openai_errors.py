"""Errors in OpenAI's format, and the paths that have it."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from tfgpt2.serving.server import http
from tfgpt2.serving.server.serving_error import ServingError

_TYPES = {  # by HTTP status
    400: "invalid_request_error", 401: "authentication_error", 404: "invalid_request_error",
    403: "permission_error", 413: "invalid_request_error", 415: "invalid_request_error",
    405: "invalid_request_error", 429: "rate_limit_error",
}  # fmt: skip
_OTHER_PATHS = ("/tokenize", "/detokenize")  # of servers with OpenAI's API


def has_openai_errors(path: str) -> bool:
    """Whether the errors of a path are OpenAI's: all but those of TensorFlow Serving's.

    Example:
        >>> has_openai_errors("/v1/embeddings"), has_openai_errors("/v1/models/m:predict")
        (True, False)
    """
    path = path.lower()
    return path in _OTHER_PATHS or (path.startswith("/v1/") and not path.startswith("/v1/models/"))


def error_response(error: ServingError) -> Response:
    """Returns an error."""
    return JSONResponse(error_object(error), error.http, headers=http.error_headers(error))


def error_object(error: ServingError) -> dict[str, Any]:
    """Returns the object of an error."""
    missing = error.code == "NOT_FOUND" and error.param == "model"
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(error.http, "server_error"),
            "param": error.param,
            "code": "model_not_found" if missing else error.code.lower(),
        }
    }
