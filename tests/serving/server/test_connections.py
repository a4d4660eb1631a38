"""HTTP clients that do not send, do not read or do not leave; and those that leave."""

import asyncio
import json
import time

import pytest

from tests.support.running_server import RunningServer, closed, http_request, wait_until
from tfgpt2.serving.server import http
from tfgpt2.serving.server.completions import _EventStream

PREDICT = "/v1/models/m:predict"
INPUTS = {"text": ["a"], "max_new_tokens": [4], "temperature": [1.0]}
BODY = json.dumps({"signature_name": "generate", "inputs": INPUTS})
STREAM = json.dumps({"model": "m", "prompt": "a", "max_tokens": 4000, "stream": True})
LONG = 3600.0


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Starts a server whose limits are long, unless they are given."""
    limits = ("idle_seconds", "receive_seconds", "send_seconds", "timeout_seconds")
    return lambda **options: RunningServer(
        tmp_path, monkeypatch, **(dict.fromkeys(limits, LONG) | options)
    )


@pytest.mark.parametrize(
    "part",
    [b"G", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", http_request(PREDICT, b"{", length=9)],
    ids=["a byte", "headers", "a body"],
)
def test_a_request_that_stops_to_arrive(serve, part):
    async def main():
        async with serve(receive_seconds=0.3) as server:
            reader, _ = await server.connect(part)
            answer = await closed(reader)
            assert answer.startswith(b"HTTP/1.1 408 ") and b"within 0.3 seconds" in answer
            # After a complete request it is the same.
            reader, writer = await server.connect(http_request(PREDICT, BODY.encode()))
            await reader.readuntil(b"}")
            writer.write(part)
            assert b"HTTP/1.1 408 " in await closed(reader)
            assert server.servable.calls == ["generate"]

    asyncio.run(main())


def test_a_request_that_arrives_too_slowly(serve):
    async def main():
        async with serve(receive_seconds=0.5) as server:
            reader, writer = await server.connect(b"GET / HTTP/1.1\r\n")
            answer = asyncio.create_task(closed(reader))
            while not answer.done():  # bytes do not extend the time
                writer.write(b"X-A: b\r\n")
                await asyncio.sleep(0.05)
            assert (await answer).startswith(b"HTTP/1.1 408 ")

    asyncio.run(main())


def test_a_body_that_the_response_did_not_wait_for(serve):
    async def main():
        async with serve(receive_seconds=0.5) as server:
            reader, writer = await server.connect(
                b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999999\r\n\r\n"
            )
            answer = asyncio.create_task(closed(reader))
            while not answer.done():
                writer.write(b"x")
                await asyncio.sleep(0.05)
            assert (await answer).startswith(b"HTTP/1.1 200 ")  # and no second response

    asyncio.run(main())


def test_a_connection_without_a_request(serve):
    async def main():
        async with serve(idle_seconds=0.3) as server:
            for request in (b"", http_request(PREDICT, BODY.encode())):
                reader, _ = await server.connect(request)
                answer = await closed(reader)
                assert answer.startswith(b"HTTP/1.1 200 " if request else b"")
                assert b"408" not in answer

    asyncio.run(main())


def test_limits_do_not_end_a_running_request(serve):
    async def main():
        async with serve(idle_seconds=0.1, receive_seconds=0.1, send_seconds=0.1) as server:
            server.servable.gate.clear()
            reader, _ = await server.connect(http_request(PREDICT, BODY.encode()))
            await asyncio.sleep(0.5)
            server.servable.gate.set()
            assert (await closed(reader)).startswith(b"HTTP/1.1 200 ")

    asyncio.run(main())


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", STREAM), (PREDICT, BODY)])
def test_an_answer_that_is_not_read(serve, path, body):
    async def main():
        async with serve(send_seconds=0.3, stream_tokens=1) as server:
            server.servable.token = b"x" * 3_000_000  # more than the buffers of the system hold
            reader, writer = await server.connect(http_request(path, body.encode()))
            writer.transport.pause_reading()
            await wait_until(server.servable.generating.is_set)
            await wait_until(lambda: not (server.connections or server.leases()))
            calls = len(server.servable.calls)
            await asyncio.sleep(0.1)
            assert len(server.servable.calls) == calls < 100
            writer.transport.resume_reading()
            await closed(reader)  # reset by the server

    asyncio.run(main())


def test_a_slow_reader_gets_its_answer(serve):
    async def main():
        async with serve(send_seconds=0.3) as server:
            server.servable.token = b"x" * 2_000_000
            reader, _ = await server.connect(http_request(PREDICT, BODY.encode()), limit=2**19)
            count, start = 0, time.monotonic()
            while part := await asyncio.wait_for(reader.read(2**22), 60):
                count += part.count(b"x")
                if count >= 8_000_000:
                    break
                await asyncio.sleep(0.1)
            # Longer than the limit, while the rest waited to be read.
            assert count >= 8_000_000 and time.monotonic() - start > 0.6

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/v1/completions", PREDICT])
def test_a_client_that_leaves_ends_its_work(serve, path):
    async def main():
        async with serve() as server:
            server.servable.gate.clear()
            body = STREAM if path == "/v1/completions" else BODY
            _, writer = await server.connect(http_request(path, body.encode()))
            await wait_until(server.servable.generating.is_set)
            writer.close()
            await wait_until(lambda: not server.leases())
            server.servable.gate.set()
            await asyncio.sleep(0.2)
            assert server.servable.calls.count("generate") == 1

    asyncio.run(main())


def test_a_client_that_leaves_a_stream_in_between(serve):
    async def main():
        async with serve() as server:
            reader, writer = await server.connect(http_request("/v1/completions", STREAM.encode()))
            await reader.readuntil(b'"x')
            writer.close()
            await wait_until(lambda: not server.leases())
            calls = len(server.servable.calls)
            await asyncio.sleep(0.1)
            assert len(server.servable.calls) == calls < 3000
            finished, seconds = await server.stop()
            assert finished and seconds < 10

    asyncio.run(main())


def test_a_client_that_leaves_its_request_half_sent_is_no_error(serve, caplog):
    async def main():
        async with serve() as server:
            for path in (PREDICT, "/v1/completions"):
                _, writer = await server.connect(http_request(path, b"{", length=9))
                await wait_until(lambda: any(one.cycle for one in server.connections))
                writer.close()
                await wait_until(lambda: not server.connections)
            await server.stop()

    asyncio.run(main())
    assert not [one for one in caplog.records if one.exc_info]


def test_a_client_that_has_left_starts_no_work(serve, monkeypatch):
    """It leaves while its body is parsed in a thread."""

    async def main():
        async with serve() as server:

            async def parse_body(body, parse, *arguments):
                writer.close()
                await wait_until(lambda: not server.connections)
                return parse(body, *arguments)

            monkeypatch.setattr(http, "parse_body", parse_body)
            for path, body in (("/v1/completions", STREAM), (PREDICT, BODY)):
                _, writer = await server.connect(http_request(path, body.encode()))
                await wait_until(lambda: server.connections)
                await wait_until(lambda: not server.connections)
            await server.stop()
            assert server.servable.calls == []

    asyncio.run(main())


@pytest.mark.parametrize("leaves", ["before", "while the first event is sent"])
def test_a_response_that_is_cut_off_closes_its_events(leaves):
    ended = []

    async def generate():
        try:
            yield b"second"
            yield b"third"
        finally:
            ended.append(True)

    async def main():
        left = asyncio.Event()
        if leaves == "before":
            left.set()

        async def receive():
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            await asyncio.sleep(0)
            if message.get("body") == b"second":
                left.set()
                await asyncio.Event().wait()

        events = generate()  # held here: no garbage collector closes it
        if leaves == "before":
            await anext(events)
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        await _EventStream(b"first", events)(scope, receive, send)
        assert ended

    asyncio.run(main())
