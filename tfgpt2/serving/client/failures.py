"""What can go wrong between a client and a server: one sentence, with URL, model and version."""

from __future__ import annotations

from typing import NamedTuple

_LONGEST_DETAIL = 300  # characters of a server's own words that are shown
_XLA_OFF = "XLA compilation disabled"
_XLA_HINT = "start the server with --xla_cpu_compilation_enabled=true"


class Place(NamedTuple):
    """Whom a client talks to.

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
    """A request came to nothing.

    Attributes:
        place: Server, model and version.
        problem: What happened, in words that follow the place.
        retry_after: Seconds after which the server wants to be asked again, if it said so.
        transient: Whether the same request may succeed later.
    """

    transient = False

    def __init__(self, place: Place, problem: str, *, retry_after: float | None = None) -> None:
        self.place, self.problem, self.retry_after = place, problem, retry_after
        super().__init__(f"{place} {problem}.")

    def __reduce__(self) -> tuple:
        return type(self), (self.place, self.problem)

    def after(self, attempts: int) -> ClientError:
        """Returns the same error, which also says how often the client tried."""
        if attempts < 2:
            return self
        return type(self)(
            self.place, f"{self.problem}; {attempts} attempts", retry_after=self.retry_after
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
    """The server refused what it was asked."""


class Unauthorized(ClientError):
    """The server wants an API key, or another one."""


class ServerFault(ClientError):
    """The server failed."""


class BadAnswer(ClientError):
    """The answer is not what the contract of the signatures says."""


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
_WORDS = {
    Unreachable: "is not available", ServerBusy: "is too busy", ModelNotFound: "was not found",
    DeadlineExceeded: "did not answer in time", InvalidRequest: "refused the request",
    Unauthorized: "refused the API key, or needs one", ServerFault: "failed",
}  # fmt: skip


def from_status(
    place: Place, status: int | str, detail: str, *, retry_after: float | None = None
) -> ClientError:
    """Makes the error that belongs to a status.

    Args:
        place: Server, model and version.
        status: An HTTP status, or the name of a gRPC code.
        detail: The server's own words.
        retry_after: Seconds, if the server said when to come back.

    Example:
        >>> str(from_status(Place("http://a:8501", "m", 2), 404, "no such version"))
        "Model 'm' (version 2) at http://a:8501 was not found (404): no such version."
    """
    kinds = _HTTP if isinstance(status, int) else _GRPC
    kind = kinds.get(status, ServerFault)
    said = " ".join(detail.split())[:_LONGEST_DETAIL].rstrip(". ")
    if _XLA_OFF in detail:
        said = f"{said}; {_XLA_HINT}"
    problem = f"{_WORDS[kind]} ({status})" + (f": {said}" if said else "")
    return kind(place, problem, retry_after=retry_after)
