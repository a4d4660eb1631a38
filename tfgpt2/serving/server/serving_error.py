"""Errors of requests: one exception with a canonical code, and the HTTP status of each code."""

from __future__ import annotations

# In the order of gRPC's numbers from 1, which TensorFlow's errors carry.
# Source: tensorflow/serving model_servers/http_server.cc::ToHTTPStatusCode.
HTTP_STATUS = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
_CODES = ("OK", *HTTP_STATUS)  # by number
_MAX_MESSAGE = 2000  # characters: a message of TensorFlow may contain a whole graph


class ServingError(Exception):
    """A failed request, with the code that gRPC and HTTP report.

    Args:
        code: A key of `HTTP_STATUS`.
        message: The message for the client; long messages are cut.
        param: The field of the request that is wrong, for OpenAI's format; None if there is none.
        http: The HTTP status; 0 is that of the code.

    Attributes:
        code: As given.
        message: As given, cut.
        param: As given.
        http: The HTTP status.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None, http: int = 0):
        super().__init__(message)
        self.code = code
        self.message = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}..."
        self.param = param
        self.http = http or HTTP_STATUS[code]


def invalid(message: str, *, param: str | None = None) -> ServingError:
    """Makes the error of an invalid request."""
    return ServingError("INVALID_ARGUMENT", message, param=param)


def from_exception(error: BaseException) -> ServingError:
    """Converts an exception raised by running a model.

    Args:
        error: Any exception; those of TensorFlow keep their code.

    Example:
        >>> from_exception(ValueError("no")).code
        'INTERNAL'
    """
    if isinstance(error, ServingError):
        return error
    number = getattr(error, "error_code", None)  # of tf.errors.OpError
    if isinstance(number, int) and 0 < number < len(_CODES):
        # TensorFlow appends the traceback of the graph, which does not concern the client.
        message = str(getattr(error, "message", error)).split("\n\nStack trace", 1)[0]
        return ServingError(_CODES[number], message.split("\n\t [[", 1)[0])
    if isinstance(error, MemoryError):
        return ServingError("RESOURCE_EXHAUSTED", "Out of memory while running this request.")
    return ServingError("INTERNAL", f"{type(error).__name__}: {error}")
