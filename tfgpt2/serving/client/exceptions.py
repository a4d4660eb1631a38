"""Exceptions of the client: one sentence, with URL, model and version."""

from __future__ import annotations

from typing import NamedTuple

_MAX_DETAIL = 300  # characters of the server's message that are shown
_XLA_OFF = "XLA compilation disabled"
_XLA_HINT = "start the server with --xla_cpu_compilation_enabled=true"


class Endpoint(NamedTuple):
    """A model on a server.

    Attributes:
        url: Address of the server.
        model: Name of the model.
        version: Version of the model; None is the newest.
    """

    url: str
    model: str
    version: int | None

    def __str__(self) -> str:
        version = "newest version" if self.version is None else f"version {self.version}"
        return f"Model {self.model!r} ({version}) at {self.url}"


class ClientError(Exception):
    """A request failed.

    Attributes:
        endpoint: Server, model and version.
        problem: What happened, in words that follow the endpoint.
        retry_after: Seconds after which the server accepts another attempt, if it gave them.
        transient: Whether the same request may succeed later.
    """

    transient = False

    def __init__(
        self, endpoint: Endpoint, problem: str, *, retry_after: float | None = None
    ) -> None:
        self.endpoint, self.problem, self.retry_after = endpoint, problem, retry_after
        super().__init__(f"{endpoint} {problem}.")

    def __reduce__(self) -> tuple:
        return type(self), (self.endpoint, self.problem)

    def after(self, attempts: int) -> ClientError:
        """Returns the same error, with the number of attempts in its message."""
        if attempts < 2:
            return self
        return type(self)(
            self.endpoint, f"{self.problem}; {attempts} attempts", retry_after=self.retry_after
        )


class Unreachable(ClientError):
    """There is no connection, or it broke, or the server answered 503 / UNAVAILABLE."""

    transient = True


class ServerBusy(ClientError):
    """The server's queue is full: 429 / RESOURCE_EXHAUSTED."""

    transient = True


class DeadlineExceeded(ClientError):
    """No answer came within the time limit."""


class ModelNotFound(ClientError):
    """The server has no such model, version or signature."""


class InvalidRequest(ClientError):
    """The server refused the request."""


class Unauthorized(ClientError):
    """The server needs an API key, or another one."""


class ServerFault(ClientError):
    """The server failed."""


class BadAnswer(ClientError):
    """The answer does not match the contract of the signatures."""


_HTTP = {
    400: InvalidRequest, 401: Unauthorized, 403: Unauthorized, 404: ModelNotFound,
    408: DeadlineExceeded, 412: InvalidRequest, 413: InvalidRequest, 422: InvalidRequest,
    429: ServerBusy, 501: InvalidRequest, 503: Unreachable, 504: DeadlineExceeded,
}  # fmt: skip
_GRPC = {
    "INVALID_ARGUMENT": InvalidRequest, "UNAUTHENTICATED": Unauthorized,
    "PERMISSION_DENIED": Unauthorized, "NOT_FOUND": ModelNotFound,
    "DEADLINE_EXCEEDED": DeadlineExceeded, "FAILED_PRECONDITION": InvalidRequest,
    "UNIMPLEMENTED": InvalidRequest, "RESOURCE_EXHAUSTED": ServerBusy,
    "UNAVAILABLE": Unreachable, "OUT_OF_RANGE": InvalidRequest,
}  # fmt: skip
_PROBLEMS = {
    Unreachable: "is not available", ServerBusy: "is too busy", ModelNotFound: "was not found",
    DeadlineExceeded: "did not answer in time", InvalidRequest: "refused the request",
    Unauthorized: "refused the API key, or needs one", ServerFault: "failed",
}  # fmt: skip


def from_status(
    endpoint: Endpoint, status: int | str, detail: str, *, retry_after: float | None = None
) -> ClientError:
    """Makes the error that belongs to a status.

    Args:
        endpoint: Server, model and version.
        status: An HTTP status, or the name of a gRPC code.
        detail: The server's message.
        retry_after: Seconds after which the server accepts another attempt, if it gave them.

    Example:
        >>> str(from_status(Endpoint("http://a:8501", "m", 2), 404, "no such version"))
        "Model 'm' (version 2) at http://a:8501 was not found (404): no such version."
    """
    kind = (_HTTP if isinstance(status, int) else _GRPC).get(status, ServerFault)
    message = " ".join(detail.split())[:_MAX_DETAIL].rstrip(". ")
    if _XLA_OFF in detail:
        message = f"{message}; {_XLA_HINT}"
    problem = f"{_PROBLEMS[kind]} ({status})" + (f": {message}" if message else "")
    return kind(endpoint, problem, retry_after=retry_after)


def no_answer_within(endpoint: Endpoint, timeout: float) -> DeadlineExceeded:
    """Makes the error of a request that took longer than its time limit."""
    return DeadlineExceeded(endpoint, f"did not answer within {timeout:.3g} s")
