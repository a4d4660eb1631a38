"""The process: sockets, signals, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from tfgpt2.errors import explain
from tfgpt2.serving.server.app import make_app
from tfgpt2.serving.server.grpc_api import make_server
from tfgpt2.serving.server.service import Service
from tfgpt2.serving.server.settings import ServerSettings

_log = logging.getLogger(__name__)


class _Http(uvicorn.Server):
    """Uvicorn without signal handlers of its own: gRPC must stop at the same time."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `serve`."""
        yield


def run(settings: ServerSettings, announce: Callable[[str], None] = print) -> bool:
    """Serves until SIGTERM or SIGINT, then finishes what runs and returns.

    Args:
        settings: What to serve, and how.
        announce: Is told where the server listens, once each model was looked for.

    Returns:
        Whether everything was finished; False when `drain_seconds` were not enough.

    Raises:
        OSError: An address cannot be had.
        RuntimeError: gRPC's port cannot be had.
    """
    return asyncio.run(_serve(settings, announce))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0"), is_loopback("localhost")
        (True, False, True)
    """
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


async def _serve(settings: ServerSettings, announce: Callable[[str], None]) -> bool:
    if not is_loopback(settings.host) and not settings.api_key:
        _log.warning(
            "Anybody who reaches %s can use this server. Set an API key, or bind to 127.0.0.1.",
            settings.host,
        )
    service = Service(settings)
    listener = _listen(settings)
    grpc = make_server(service) if settings.grpc_port is not None else None
    where = f"REST and page: http://{_shown(settings.host)}:{listener.getsockname()[1]}"
    if grpc is not None:
        port = grpc.add_insecure_port(f"{_shown(settings.host)}:{settings.grpc_port}")
        where += f"  gRPC: {_shown(settings.host)}:{port}"
    http = _Http(
        uvicorn.Config(
            make_app(service),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            server_header=False,
            lifespan="off",
        )
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, http, stopping)
    if grpc is not None:
        await grpc.start()
    # Health and status answer from the start; predictions when a model is there.
    answering = asyncio.create_task(http.serve(sockets=[listener]))
    loading = asyncio.create_task(service.models.start())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait((answering, loading, waiting), return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and not stopping.is_set():
        loading.result()
        for model in service.models:
            _tell(model.name, model.path, model.available())
        announce(where)
        await asyncio.wait((answering, waiting), return_when=asyncio.FIRST_COMPLETED)
    http.should_exit = True
    drained = [answering]
    if grpc is not None:  # new calls are refused at once, running ones get their time
        drained.append(asyncio.create_task(grpc.stop(settings.drain_seconds)))
    await asyncio.gather(*drained)
    loading.cancel()
    waiting.cancel()
    await asyncio.gather(loading, waiting, return_exceptions=True)
    try:
        await asyncio.wait_for(service.close(), 1.0)
    except asyncio.TimeoutError:
        _log.warning("Stopped while %d batches were running.", service.batcher.running)
        return False
    return True


def _stop(http: uvicorn.Server, stopping: asyncio.Event) -> None:
    """The first signal asks to finish, a second one to hurry."""
    if stopping.is_set():
        http.force_exit = True
    http.should_exit = True
    stopping.set()


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait
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


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tell(name: str, path: object, available: list[int]) -> None:
    if available:
        _log.info("%s: version %s from %s", name, available[0], path)
    else:
        _log.warning("%s: no version in %s yet; waiting for one.", name, path)
