"""Errors of requests: one exception with a canonical code, and what each code is in HTTP."""

from __future__ import annotations

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
# The order of gRPC's numbers, which TensorFlow's errors carry.
_BY_NUMBER = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_LONGEST = 2000  # characters of a message that are sent: TensorFlow's may hold a whole graph


class ServingError(Exception):
    """A request that failed, with the code that gRPC and HTTP tell.

    Attributes:
        code: A key of `HTTP_STATUS`.
        message: What a client is told.
        param: The field of the request it is about, for OpenAI's form; None when none is.
        http: The HTTP status.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None, http: int = 0):
        super().__init__(message)
        self.code = code
        self.message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."
        self.param = param
        self.http = http or HTTP_STATUS[code]


def invalid(message: str, *, param: str | None = None) -> ServingError:
    """Makes the commonest error: the request itself is wrong."""
    return ServingError("INVALID_ARGUMENT", message, param=param)


def from_exception(error: BaseException) -> ServingError:
    """Translates what running a model raised.

    Args:
        error: Anything; TensorFlow's errors keep their code.

    Example:
        >>> from_exception(ValueError("no")).code
        'INTERNAL'
    """
    if isinstance(error, ServingError):
        return error
    number = getattr(error, "error_code", None)  # of tf.errors.OpError
    if isinstance(number, int) and 0 < number < len(_BY_NUMBER):
        # TensorFlow appends the graph's traceback, which is no concern of a client.
        message = str(getattr(error, "message", error)).split("\n\nStack trace", 1)[0]
        return ServingError(_BY_NUMBER[number], message.split("\n\t [[", 1)[0])
    if isinstance(error, MemoryError):
        return ServingError(
            "RESOURCE_EXHAUSTED", "The machine has no memory left for this request."
        )
    return ServingError("INTERNAL", f"{type(error).__name__}: {error}")
