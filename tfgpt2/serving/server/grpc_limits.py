"""gRPC connections and calls that do not wait for their client forever.

gRPC itself limits connections: without a call, without an answer to a ping, or too old. A call
whose message never arrives has no limit there, so it has one here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from tfgpt2.serving.server.cancellation import cancel, run_within
from tfgpt2.serving.server.connection import STOP_SECONDS
from tfgpt2.serving.server.settings import ServerSettings

_MAX_MILLISECONDS = 2**31 - 1  # of an option of gRPC
_NEVER = 1e6  # seconds


def connection_options(settings: ServerSettings) -> list[tuple[str, int]]:
    """Returns gRPC's options for the limits of connections."""
    return [
        ("grpc.server_handshake_timeout_ms", _milliseconds(settings.receive_seconds)),
        ("grpc.max_connection_idle_ms", _milliseconds(settings.idle_seconds)),
        # A client that is gone without a word, or stopped, does not answer a ping.
        ("grpc.keepalive_time_ms", _milliseconds(settings.send_seconds)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.send_seconds)),
        ("grpc.http2.ping_timeout_ms", _milliseconds(settings.send_seconds)),  # of other pings
        # A client that answers pings but does not read a response keeps it until its connection
        # is replaced: gRPC cannot cancel a single call of a server.
        ("grpc.max_connection_age_ms", _milliseconds(settings.grpc_connection_seconds)),
        (
            "grpc.max_connection_age_grace_ms",
            _milliseconds(settings.timeout_seconds + settings.send_seconds),
        ),
    ]


class CallLimits(grpc.aio.ServerInterceptor):
    """Limits the time in which the message of a call arrives, and counts running calls.

    Args:
        receive_seconds: From the headers of a call to its message.

    Attributes:
        running: Calls whose message has arrived and whose response is not ready.
    """

    def __init__(self, receive_seconds: float):
        self._receive_seconds = receive_seconds
        self.running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Wraps a method that takes one message.

        gRPC would receive the message by itself, without a limit. As a method that takes a stream
        of messages, which is the same to clients, it is started before and receives it here.
        """
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler

        async def receive_and_run(_: Any, context: Any) -> Any:
            message = await self._receive(context)
            self.running += 1
            self._idle.clear()
            try:
                return await handler.unary_unary(message, context)
            finally:
                self.running -= 1
                if not self.running:
                    self._idle.set()

        return grpc.stream_unary_rpc_method_handler(
            receive_and_run, handler.request_deserializer, handler.response_serializer
        )

    async def _receive(self, context: Any) -> Any:
        seconds = self._receive_seconds
        try:
            message = await run_within(context.read(), seconds)
        except asyncio.TimeoutError:
            problem = f"The message of the call did not arrive within {seconds:.3g} seconds."
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, problem)
        if message is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The call has no message.")
        return message

    async def stop(self, server: grpc.aio.Server, seconds: float, now: asyncio.Event) -> int:
        """Rejects new calls, finishes running ones and stops the server.

        A call whose message has not arrived, or whose response is not read, is not waited for.

        Args:
            server: The server of these calls.
            seconds: How long running calls may take.
            now: When it is set, they may not.

        Returns:
            How many calls were not finished.
        """
        stopped = asyncio.ensure_future(server.stop(_NEVER))
        finished, forced = (asyncio.ensure_future(one.wait()) for one in (self._idle, now))
        await asyncio.wait(
            (stopped, finished, forced), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if finished.done() and not forced.done():  # responses still have to be read
            await asyncio.wait(
                (stopped, forced), timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        unfinished = self.running
        await server.stop(None)
        await stopped
        await cancel((finished, forced))
        return unfinished


def _milliseconds(seconds: float) -> int:
    return min(max(1, round(seconds * 1000)), _MAX_MILLISECONDS)
