"""The server process: sockets, signals, start and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from tfgpt2.errors import explain
from tfgpt2.quiet import quiet
from tfgpt2.serving.server import registry
from tfgpt2.serving.server.app import make_app
from tfgpt2.serving.server.browser_checks import is_loopback
from tfgpt2.serving.server.cancellation import cancel, run_within
from tfgpt2.serving.server.connection import Connection, ConnectionLimits
from tfgpt2.serving.server.server_core import ServerCore
from tfgpt2.serving.server.settings import ServerSettings

_log = logging.getLogger(__name__)


class _HttpServer(uvicorn.Server):
    """Uvicorn without its own signal handlers: gRPC must stop at the same time.

    Attributes:
        unfinished: Requests that were cancelled when the server stopped.
    """

    unfinished = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Installs no handlers."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finishes running requests and counts those that it had to cancel."""
        await super().shutdown(sockets)
        self.unfinished = max(self.unfinished, len(self.server_state.tasks))

    def stop_at_once(self) -> None:
        """Cancels running requests: their clients see a broken connection."""
        self.force_exit = True
        self.unfinished = len(self.server_state.tasks)
        # From Python 3.12 on, uvicorn would still wait until they are closed.
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def run(settings: ServerSettings, announce: Callable[[str], None] = print) -> bool:
    """Serves until SIGTERM or SIGINT, then finishes running requests and returns.

    Args:
        settings: Configuration of the server.
        announce: Called with the addresses of the server once the models are loaded.

    Returns:
        Whether all requests were finished; False if `drain_seconds` were not enough.

    Raises:
        OSError: An address cannot be bound.
        RuntimeError: The port of gRPC cannot be bound.
    """
    return asyncio.run(_serve(settings, announce))


async def _serve(settings: ServerSettings, announce: Callable[[str], None]) -> bool:
    if not is_loopback(settings.host) and not settings.api_key:
        _log.warning(
            "Anyone who can reach %s can use this server. Set an API key, or bind to 127.0.0.1.",
            settings.host,
        )
    core = ServerCore(settings)
    listener = _bind(settings)
    grpc, calls = _make_grpc(core)
    addresses = f"REST and page: http://{_url_host(settings.host)}:{listener.getsockname()[1]}"
    if grpc is not None:
        port = grpc.add_insecure_port(f"{_url_host(settings.host)}:{settings.grpc_port}")
        addresses += f"  gRPC: {_url_host(settings.host)}:{port}"
    limits = ConnectionLimits.of(settings)
    http = _HttpServer(
        uvicorn.Config(
            make_app(core),
            http=functools.partial(Connection, limits),
            ws="none",  # its connections would have no limits
            timeout_keep_alive=settings.idle_seconds,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            server_header=False,
            lifespan="off",
        )
    )
    stopping, forced = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _request_stop, http, stopping, forced)
    if grpc is not None:
        await grpc.start()
    # Health and status are served from the start, predictions once a model is loaded.
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    loading = asyncio.create_task(core.models.start())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait((serving, loading, waiting), return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and not stopping.is_set():
        loading.result()
        for model in core.models:
            if versions := model.available():
                _log.info("%s: version %s from %s", model.name, versions[0], model.path)
            else:
                _log.warning("%s: no version in %s yet; waiting for one.", model.name, model.path)
        announce(addresses)
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
    http.should_exit = True
    limits.stop()
    unfinished = 0
    if grpc is not None:
        unfinished += await calls.stop(grpc, settings.drain_seconds, forced)
    await serving
    unfinished += http.unfinished
    await cancel((loading, waiting))
    try:
        await run_within(core.close(), 1.0)
    except asyncio.TimeoutError:  # the clients of these have left; a batch cannot be interrupted
        _log.warning("Stopped while %d batches were running.", core.batcher.num_running)
    if unfinished:
        _log.warning("Stopped before %d requests were finished.", unfinished)
    return not unfinished


def _request_stop(http: _HttpServer, stopping: asyncio.Event, forced: asyncio.Event) -> None:
    """Handles signals: the first one stops gracefully, the second one at once."""
    if stopping.is_set():
        http.stop_at_once()
        forced.set()
    http.should_exit = True
    stopping.set()


def _make_grpc(core: ServerCore) -> tuple[Any, Any]:
    """The gRPC server and the limits of its calls; None and None where there is none.

    Its messages are TensorFlow's, which is not imported for LiteRT exports alone.
    """
    settings = core.settings
    if settings.grpc_port < 0:
        return None, None
    if not any(map(registry.needs_tensorflow, settings.models.values())):
        _log.info("No gRPC: it needs TensorFlow, and LiteRT exports are served without.")
        return None, None
    with quiet():  # TensorFlow is imported here
        from tfgpt2.serving.server.grpc_api import make_server
        from tfgpt2.serving.server.grpc_limits import CallLimits

    calls = CallLimits(settings.receive_seconds)
    return make_server(core, calls), calls


def _bind(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # allow a quick restart
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise OSError(
            explain(
                f"Cannot listen there: {error.strerror}.",
                fix="Choose another --port (0 takes a free one) or --host.",
                host=settings.host,
                port=settings.port,
            )
        ) from error
    return listener


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
