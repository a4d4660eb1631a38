"""Five hundred clients that leave in the middle of their answers: nothing of them stays."""

import asyncio
import json
import re

import httpx
import psutil
import pytest

from tests.support.server_requests import MODEL

CLIENTS, AT_ONCE = 500, 50
REQUEST = {"model": MODEL, "prompt": "ROMEO:", "max_tokens": 200, "temperature": 0,
           "ignore_eos": True}  # fmt: skip


async def leave(port, number):
    """Leaves while a text is written: in a stream, before a whole answer, or after half a body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(REQUEST | {"stream": number % 3 == 0, "seed": number}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    writer.write(head.encode() + (body if number % 3 < 2 else body[: len(body) // 2]))
    if number % 3 == 0:
        await reader.readuntil(b"data: ")
    else:
        await writer.drain()
        await asyncio.sleep(0.05 * (number % 5))
    writer.close()


async def wave(port):
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(number):
        async with limit:
            await leave(port, number)

    await asyncio.gather(*map(one, range(CLIENTS)))


async def settle(http):
    """Waits until nothing runs or waits; then every slot is free."""
    for _ in range(600):
        metrics = (await http.get("/monitoring/prometheus/metrics")).text
        values = re.findall(r"^tfgpt2_(?:queue_depth|running_batches) (\S+)$", metrics, re.M)
        assert len(values) == 2
        if not any(map(float, values)):
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"the server is still busy: {values}")


@pytest.mark.long
def test_nothing_stays_of_clients_that_leave(exported, start_server, figure):
    server = start_server(exported)
    process = psutil.Process(server.process.pid)

    async def main():
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:

            async def answer():
                return (await http.post("/v1/completions", json=REQUEST)).json()

            expected = (await answer())["choices"][0]["text"]
            seen = []
            for _ in range(5):  # the first two make what stays for good, such as threads of a pool
                await wave(server.port)
                await settle(http)
                # Its slots are free: as many rows as it has run at once, and are right.
                answers = await asyncio.gather(*(answer() for _ in range(8)))
                assert {one["choices"][0]["text"] for one in answers} == {expected}
                seen.append((process.num_threads(), process.num_fds(),
                             process.memory_info().rss / 1e6))  # fmt: skip
            return seen

    seen = asyncio.run(main())
    threads, files, megabytes = zip(*seen, strict=True)
    figure("threads after 1,000 clients left, and after 2,500", threads[-1] - threads[1])
    figure("MB more after 2,500 clients than before", megabytes[-1] - max(megabytes[:2]))
    assert threads[-1] <= threads[1] and files[-1] <= files[1]
    assert megabytes[-1] < max(megabytes[:2]) + 40
    assert "Traceback" not in "".join(server.log)
