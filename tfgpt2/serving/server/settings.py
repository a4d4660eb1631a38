"""What a server may be told: models, addresses, batches, limits."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from tfgpt2.errors import explain

_NAME = re.compile(r"[^/:\s]+")


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """How rows of concurrent requests become one batch; TensorFlow Serving's ideas and names.

    Attributes:
        enabled: False runs each request by itself.
        max_batch_size: Rows of a batch, 1 or more; also the most rows a request may have.
        allowed_batch_sizes: Batches are padded to the next of these, so that few programs are
            compiled; the last one is `max_batch_size`. Empty means the powers of two up to it.
        batch_timeout_micros: How long the first request of a batch waits for others, microseconds.
        max_queue: Requests that may wait; one more is rejected.
        num_batch_threads: Batches that run at the same time.
    """

    enabled: bool = True
    max_batch_size: int = 32
    allowed_batch_sizes: tuple[int, ...] = ()
    batch_timeout_micros: int = 2000
    max_queue: int = 512
    num_batch_threads: int = 2

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_queue", "num_batch_threads"):
            _at_least(name, getattr(self, name), 1)
        _at_least("batch_timeout_micros", self.batch_timeout_micros, 0)
        sizes = self.allowed_batch_sizes or _powers(self.max_batch_size)
        if list(sizes) != sorted(set(sizes)) or sizes[-1] != self.max_batch_size or sizes[0] < 1:
            raise ValueError(
                explain(
                    "`allowed_batch_sizes` must rise and end with `max_batch_size`.",
                    fix="Leave them out to have powers of two.",
                    allowed_batch_sizes=sizes,
                    max_batch_size=self.max_batch_size,
                )
            )
        object.__setattr__(self, "allowed_batch_sizes", tuple(sizes))

    def padded(self, rows: int) -> int:
        """Rows of the batch that holds so many.

        Example:
            >>> BatchSettings(max_batch_size=12).padded(5)
            8
        """
        return next(size for size in self.allowed_batch_sizes if size >= rows)


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Everything a server is told at its start.

    Attributes:
        models: Base path of each model by name; its numbered subfolders are the versions.
        host: The address to listen on; 127.0.0.1 reaches this machine only.
        port: REST and page; 0 takes a free one.
        grpc_port: gRPC; 0 takes a free one, None has no gRPC.
        batching: See `BatchSettings`.
        labels: For each model, version number by label.
        keep_versions: How many of the newest versions are served, 1 or more.
        poll_seconds: Seconds between two looks for new versions.
        timeout_seconds: Seconds a request may take, queue included; gRPC clients may ask for less.
        drain_seconds: Seconds that running requests get when the server is told to stop.
        max_body_bytes: Bytes of a request's body (or of a gRPC message).
        max_new_tokens: The most new tokens a row may ask for.
        stream_tokens: New tokens of each piece of a stream.
        api_key: Required as `Authorization: Bearer KEY` when not empty.
    """

    models: Mapping[str, Path]
    host: str = "127.0.0.1"
    port: int = 8501
    grpc_port: int | None = 8500
    batching: BatchSettings = dataclasses.field(default_factory=BatchSettings)
    labels: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    keep_versions: int = 1
    poll_seconds: float = 1.0
    timeout_seconds: float = 30.0
    drain_seconds: float = 30.0
    max_body_bytes: int = 4 * 2**20
    max_new_tokens: int = 4096
    stream_tokens: int = 8
    api_key: str = ""

    def __post_init__(self) -> None:
        for name in ("keep_versions", "max_body_bytes", "max_new_tokens", "stream_tokens"):
            _at_least(name, getattr(self, name), 1)
        for name in ("poll_seconds", "timeout_seconds"):
            _at_least(name, getattr(self, name), 0.01)
        _at_least("drain_seconds", self.drain_seconds, 0)
        _check_models(self.models)
        unknown = set(self.labels) - set(self.models)
        if unknown:
            raise ValueError(
                explain(
                    "A label must belong to a model that is served.",
                    fix=f"Served are: {', '.join(self.models)}.",
                    model=sorted(unknown)[0],
                )
            )


def _check_models(models: Mapping[str, Path]) -> None:
    if not models:
        raise ValueError(explain("There is no model to serve.", fix="Pass its directory."))
    for name, path in models.items():
        if not _NAME.fullmatch(name):
            raise ValueError(
                explain(
                    "A model's name must not be empty or hold '/', ':' or blanks.",
                    fix="Choose one with --model NAME=PATH.",
                    name=name,
                )
            )
        if not path.is_dir():
            raise FileNotFoundError(
                explain(
                    "There is no such directory.",
                    fix="Export a model first: tfgpt2 export saved_models/NAME/1.",
                    path=str(path),
                )
            )
        if (path / "saved_model.pb").is_file():
            raise ValueError(
                explain(
                    "This is one version of a model; expected the folder that holds its versions.",
                    fix=f"Pass {str(path.parent)!r}, and name the version 1, 2, ... in it.",
                    path=str(path),
                )
            )


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(
            explain(
                f"`{name}` must be at least {least}.", fix="Pass a larger number.", **{name: value}
            )
        )


def _powers(limit: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the limit itself."""
    return (*(2**i for i in range(limit.bit_length()) if 2**i < limit), limit)
