"""HTTP connections that do not wait for their client forever.

A connection waits for its client in three ways, each with a limit:

    no request         idle_seconds      before the first request and between two
    half a request     receive_seconds   from the first byte of its headers to the last of its body
    an unread answer   send_seconds      while bytes of an answer wait to be read

While a request runs, no limit of this module applies; `timeout_seconds` does. When the server
stops, a client that lets it wait has `STOP_SECONDS` left, whatever the limits are.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tfgpt2.serving.server.settings import ServerSettings

STOP_SECONDS = 1.0
_MIN_READ = 2**18  # bytes of a long answer that must be read within `send_seconds`
_NOTHING, _REQUEST, _REST = "nothing", "a request", "the rest of a request"  # awaited


@dataclasses.dataclass
class ConnectionLimits:
    """Limits of all connections of a server.

    Attributes:
        idle_seconds: Until a request starts to arrive.
        receive_seconds: From its first byte to its last.
        send_seconds: For reading what waits to be sent, or `min_read` bytes of it.
        min_read: Bytes that count as reading.
    """

    idle_seconds: float
    receive_seconds: float
    send_seconds: float
    min_read: int = _MIN_READ

    @classmethod
    def of(cls, settings: ServerSettings) -> ConnectionLimits:
        """Returns the limits of settings."""
        return cls(settings.idle_seconds, settings.receive_seconds, settings.send_seconds)

    def stop(self) -> None:
        """Shortens all limits; connections notice when `Connection.shutdown` is called."""
        self.idle_seconds = self.receive_seconds = self.send_seconds = STOP_SECONDS
        self.min_read = 1  # a slow reader may finish, one that stands still may not


class Connection(H11Protocol):
    """An HTTP connection of uvicorn with time limits.

    Uvicorn limits only the time after a response, and not once a byte of the next request has
    arrived.

    Args:
        limits: Shared by all connections.
        **options: Uvicorn's.
    """

    def __init__(self, limits: ConnectionLimits, **options: Any):
        super().__init__(**options)
        self._limits = limits
        self._awaited = _NOTHING
        self._arrival, self._reading = _Timer(self.loop), _Timer(self.loop)
        self._unsent = 0  # bytes, when `_reading` was started

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Starts to wait for a request."""
        # `pause_writing` is called as soon as bytes wait to be read, not from 64 KiB on.
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)
        self._watch_arrival()

    def data_received(self, data: bytes) -> None:
        """Receives bytes of requests."""
        super().data_received(data)
        self._watch_arrival()

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        self._watch_arrival()

    def pause_writing(self) -> None:
        """Starts to wait until the client reads."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """The client has read everything."""
        super().resume_writing()
        self._reading.stop()

    def shutdown(self) -> None:
        """Closes the connection, after the response to a running request."""
        super().shutdown()
        self._awaited = _NOTHING  # start again, with the limits of a server that stops
        self._watch_arrival()
        if self._reading.running:
            self._watch_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all waiting."""
        super().connection_lost(exc)
        self._arrival.stop()
        self._reading.stop()

    def _watch_arrival(self) -> None:
        """Starts the timer anew if the client has something else to send than before."""
        awaited = self._next_awaited()
        if awaited == self._awaited:
            return
        self._awaited = awaited
        self._arrival.stop()
        if awaited != _NOTHING:
            limits = self._limits
            seconds = limits.idle_seconds if awaited == _REQUEST else limits.receive_seconds
            self._arrival.start(seconds, self._stop_waiting, seconds)

    def _next_awaited(self) -> str:
        if self.transport.is_closing():
            return _NOTHING
        if self.conn.their_state is h11.IDLE:
            return _REST if self.conn.trailing_data[0] else _REQUEST
        return _REST if self.conn.their_state is h11.SEND_BODY else _NOTHING

    def _stop_waiting(self, seconds: float) -> None:
        """Closes the connection, with an error for a request that has begun to arrive."""
        if self._awaited == _REST and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            error = f"The request did not arrive completely within {seconds:.3g} seconds."
            headers = [("Content-Type", "application/json"), ("Connection", "close")]
            for event in (
                h11.Response(status_code=408, headers=headers, reason=b"Request Timeout"),
                h11.Data(data=json.dumps({"error": error}).encode()),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()  # the application is told that the client has disconnected

    def _watch_reading(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._reading.start(self._limits.send_seconds, self._check_reading)

    def _check_reading(self) -> None:
        if self._unsent - self.transport.get_write_buffer_size() < self._limits.min_read:
            self.transport.abort()  # `close` would wait for the client
        else:
            self._watch_reading()


class _Timer:
    """Calls a function after a while, unless it is stopped or started again."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        return self._handle is not None

    def start(self, seconds: float, function: Callable[..., None], *arguments: object) -> None:
        self.stop()
        self._handle = self._loop.call_later(seconds, function, *arguments)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
