"""Settings of the server: models, addresses, batches, limits."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfgpt2.errors import explain, value_error

_NAME = re.compile(r"[^/:\s]+")
_SLOT_COUNTS = (1, 4, 16, 64)  # few, since XLA compiles a program for each
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")  # or an IP address
NO_CHAT = "none"  # a chat template
_ORIGIN = re.compile(r"(?i)https?://[^\s/?#@*]+")


def _field(default: Any, help: str, **metadata: str) -> Any:
    """A setting that is also a flag of `tfgpt2 serve`; see `tfgpt2.cli.options.add_flags`."""
    return dataclasses.field(default=default, metadata={"help": help} | metadata)


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """How rows of concurrent requests become one batch; names as in TensorFlow Serving.

    The `help` of a field describes it.

    Attributes:
        allowed_batch_sizes: Batches are padded to the next of these sizes, so that few programs
            are compiled; the last one is `max_batch_size`. Empty means the powers of two up to it.
    """

    enabled: bool = _field(True, "Run concurrent requests together.", flag="batching")
    max_batch_size: int = _field(32, "Rows of a batch and of a request.")
    allowed_batch_sizes: tuple[int, ...] = ()
    batch_timeout_micros: int = _field(2000, "How long a batch waits for more rows.")
    num_batch_threads: int = _field(2, "Batches at the same time.", flag="batch_threads")
    max_queue: int = _field(512, "Most waiting requests; others get 429.")
    max_queue_bytes: int = _field(256 * 2**20, "Most bytes of waiting requests; others get 429.")

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_queue", "max_queue_bytes", "num_batch_threads"):
            _check_minimum(name, getattr(self, name), 1)
        _check_minimum("batch_timeout_micros", self.batch_timeout_micros, 0)
        sizes = self.allowed_batch_sizes or _powers(self.max_batch_size)
        if list(sizes) != sorted(set(sizes)) or sizes[-1] != self.max_batch_size or sizes[0] < 1:
            raise value_error(
                "`allowed_batch_sizes` must increase and end with `max_batch_size`.",
                fix="Leave them out to use powers of two.",
                allowed_batch_sizes=sizes,
                max_batch_size=self.max_batch_size,
            )
        object.__setattr__(self, "allowed_batch_sizes", tuple(sizes))

    def padded_size(self, rows: int) -> int:
        """Returns the smallest allowed batch size that holds a number of rows.

        Example:
            >>> BatchSettings(max_batch_size=12).padded_size(5)
            8
        """
        return next(size for size in self.allowed_batch_sizes if size >= rows)


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Everything that a server is configured with; the `help` of a field describes it.

    Attributes:
        models: Base path of each model by name; its numbered subfolders are the versions.
        labels: For each model, version number by label.
        batching: See `BatchSettings`.
    """

    models: Mapping[str, Path]
    labels: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    host: str = _field("127.0.0.1", "Address to bind to; 127.0.0.1: this machine only.")
    port: int = _field(8501, "For REST and the playground; 0 chooses a free port.")
    grpc_port: int = _field(8500, "0 chooses a free port, -1 turns gRPC off.")
    api_key: str = _field("", "Better set by the environment variable.", envvar="TFGPT2_API_KEY")
    allowed_hosts: tuple[str, ...] = _field(
        (),
        "Name by which browsers may reach this server; may be given several times.",
        flag="allow_host",
    )
    allowed_origins: tuple[str, ...] = _field(
        (),
        "Other origin whose pages may use this server; may be given several times.",
        flag="allow_origin",
    )
    chat_template: str = _field(
        "", "File, instead of the export's template or the plain one; `none` turns chats off."
    )
    keep_versions: int = _field(1, "Number of newest versions to serve.")
    poll_seconds: float = _field(1.0, "Time between checks for new versions.")
    batching: BatchSettings = dataclasses.field(default_factory=BatchSettings)
    timeout_seconds: float = _field(30.0, "For a request, queueing included.")
    drain_seconds: float = _field(30.0, "For running requests to finish when the server stops.")
    receive_seconds: float = _field(30.0, "For a request to arrive.")
    send_seconds: float = _field(30.0, "For a client to read its answer.")
    idle_seconds: float = _field(60.0, "For a connection without a request.")
    grpc_connection_seconds: float = _field(600.0, "After this, a gRPC client must reconnect.")
    max_body_bytes: int = _field(4 * 2**20, "Most bytes of a request.")
    max_new_tokens: int = _field(4096, "Most new tokens that a request may ask for.")
    stream_tokens: int = _field(8, "Tokens per chunk of a stream, and per round of the engine.")
    engine: bool = _field(True, "Use the engine of exports that have one.")
    engine_slots: int = _field(32, "Texts that are generated together; others wait.")

    @property
    def slot_counts(self) -> tuple[int, ...]:
        """Numbers of slots that a state of the engine can have; none without an engine."""
        if not self.engine:
            return ()
        return (*(count for count in _SLOT_COUNTS if count < self.engine_slots), self.engine_slots)

    def __post_init__(self) -> None:
        for name in ("keep_versions", "max_body_bytes", "max_new_tokens", "stream_tokens",
                     "engine_slots"):  # fmt: skip
            _check_minimum(name, getattr(self, name), 1)
        for name in ("poll_seconds", "timeout_seconds", "receive_seconds", "send_seconds",
                     "idle_seconds", "grpc_connection_seconds"):  # fmt: skip
            _check_minimum(name, getattr(self, name), 0.01)
        _check_minimum("drain_seconds", self.drain_seconds, 0)
        if self.chat_template not in ("", NO_CHAT) and not Path(self.chat_template).is_file():
            raise FileNotFoundError(
                explain(
                    "There is no such chat template.",
                    fix="Pass a file with a jinja2 template, or none.",
                    chat_template=self.chat_template,
                )
            )
        _check_hosts(self.allowed_hosts)
        _check_origins(self.allowed_origins)
        object.__setattr__(self, "allowed_origins", tuple(map(str.lower, self.allowed_origins)))
        object.__setattr__(self, "allowed_hosts", tuple(map(str.lower, self.allowed_hosts)))
        _check_models(self.models)
        unknown = set(self.labels) - set(self.models)
        if unknown:
            raise value_error(
                "A label must belong to a served model.",
                fix=f"Served models: {', '.join(self.models)}.",
                model=sorted(unknown)[0],
            )


def _check_hosts(hosts: Sequence[str]) -> None:
    for host in hosts:
        if not _HOST_NAME.fullmatch(host):
            raise value_error(
                "`allowed_hosts` must be names without scheme, port and brackets.",
                fix="For example --allow-host gpt2.example.org.",
                allowed_hosts=host,
            )


def _check_origins(origins: Sequence[str]) -> None:
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise value_error(
                "`allowed_origins` must be schemes with a host and, where it is not the usual one,"
                " a port; there is no `*`.",
                fix="For example --allow-origin https://app.example.org.",
                allowed_origins=origin,
            )


def _check_models(models: Mapping[str, Path]) -> None:
    if not models:
        raise value_error("There is no model to serve.", fix="Pass its directory.")
    for name, path in models.items():
        if not _NAME.fullmatch(name):
            raise value_error(
                "A model's name must not be empty or contain '/', ':' or whitespace.",
                fix="Choose one with --model NAME=PATH.",
                name=name,
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
            raise value_error(
                "This is one version of a model; expected the folder that holds its versions.",
                fix=f"Pass {str(path.parent)!r}, and name the versions in it 1, 2, ...",
                path=str(path),
            )


def _check_minimum(name: str, value: float, minimum: float) -> None:
    if not minimum <= value < math.inf:
        raise value_error(
            f"`{name}` must be at least {minimum} and finite.",
            fix="Pass another number.",
            **{name: value},
        )


def _powers(limit: int) -> tuple[int, ...]:
    """Returns 1, 2, 4, ... and the limit itself."""
    return (*(2**i for i in range(limit.bit_length()) if 2**i < limit), limit)
