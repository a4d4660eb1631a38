"""A server with a fake model, in the event loop of the test."""

import asyncio
import contextlib
import os
import re
import signal
import time

from tests.support.fake_text_servable import FakeTextServable
from tfgpt2.serving.server import run, server_core
from tfgpt2.serving.server.connection import Connection
from tfgpt2.serving.server.settings import ServerSettings
from tfgpt2.serving.server.version_manager import VersionManager


class RunningServer:
    """Serves the model `m` until `stop`, in the main thread.

    Attributes:
        servable: The model.
        port: Of HTTP.
        grpc_port: Of gRPC.
        connections: The open connections of HTTP.
    """

    def __init__(self, folder, monkeypatch, **options):
        (folder / "1").mkdir(exist_ok=True)
        (folder / "1" / "saved_model.pb").touch()
        self.servable = FakeTextServable()
        self._managers = []
        monkeypatch.setattr(server_core, "VersionManager", self._make_manager)
        self.connections = connections = set()

        class Recorded(Connection):
            def connection_made(self, transport):
                connections.add(self)
                super().connection_made(transport)

            def connection_lost(self, error):
                connections.discard(self)
                super().connection_lost(error)

        monkeypatch.setattr(run, "Connection", Recorded)
        self._settings = ServerSettings(models={"m": folder}, port=0, grpc_port=0, **options)
        self._serving = None

    async def __aenter__(self):
        announced = asyncio.get_running_loop().create_future()
        self._serving = asyncio.create_task(run._serve(self._settings, announced.set_result))
        await asyncio.wait((announced, self._serving), return_when=asyncio.FIRST_COMPLETED)
        self.port, self.grpc_port = map(int, re.findall(r":(\d+)", announced.result()))
        return self

    async def __aexit__(self, *error):
        self.servable.gate.set()
        if not self._serving.done():
            await self.stop()

    def _make_manager(self, *arguments, **_):
        self._managers.append(VersionManager(*arguments, load=lambda *_: self.servable))
        return self._managers[-1]

    def leases(self):
        """How many requests use the model."""
        return sum(one.leases for model in self._managers for one in model._versions.values())

    def terminate(self):
        os.kill(os.getpid(), signal.SIGTERM)

    async def stop(self):
        """Sends SIGTERM, and returns whether all requests were finished, and after how long."""
        start = time.monotonic()
        self.terminate()
        return await self._serving, time.monotonic() - start

    async def connect(self, data=b"", **options):
        """Opens a connection to HTTP and sends bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        writer.write(data)
        return reader, writer


def http_request(path, body, *, length=None, host="127.0.0.1"):
    """Makes the bytes of a POST request; `length` declares another length than that of the body."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body


async def wait_until(condition, seconds=60):
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)


async def closed(reader, seconds=60):
    """Reads until the server closes the connection, and returns the bytes."""
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), seconds)
    return b""
