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
_MAX_NAME = 200  # characters of a received name that are shown


class ServingError(Exception):
    """A failed request, with the code that gRPC and HTTP report.

    Args:
        code: A key of `HTTP_STATUS`.
        message: The message for the client; long messages are cut, and lone surrogates, which no
            response can contain, are escaped.
        param: The field of the request that is wrong, for OpenAI's format; None if there is none.
        http: The HTTP status; 0 is that of the code.

    Attributes:
        code: As given.
        message: As given, cut and escaped.
        param: As given, cut and escaped.
        http: The HTTP status.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None, http: int = 0):
        self.code = code
        self.message = _escape_surrogates(cut(message, _MAX_MESSAGE))
        self.param = None if param is None else _escape_surrogates(cut(param))
        super().__init__(self.message)
        self.http = http or HTTP_STATUS[code]


def cut(text: str, limit: int = _MAX_NAME) -> str:
    """Cuts a text that may be as long as a message, such as the name of a model or an input.

    Example:
        >>> cut("serving_default"), cut("a" * 10**6, limit=3)
        ('serving_default', 'aaa...')
    """
    return text if len(text) <= limit else f"{text[:limit]}..."


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


def _escape_surrogates(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
