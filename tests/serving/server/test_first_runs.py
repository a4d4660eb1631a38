"""The time in which programs are compiled does not count against requests."""

import asyncio
import threading
import time

import numpy as np
import pytest

from tests.support.fake_servable import FakeServable, echo_request
from tfgpt2.serving.server.cancellation import run_within
from tfgpt2.serving.server.first_runs import FirstRuns
from tfgpt2.serving.server.server_core import ServerCore
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.settings import ServerSettings


def test_the_clock_runs_for_new_shapes_only(caplog):
    clock = FirstRuns("m", compiles=True)
    for signature, shapes, runs in (("a", (1,), True), ("a", (1,), False), ("a", (2,), True),
                                    ("b", (2,), True), ("b", (2,), False)):  # fmt: skip
        before = clock.seconds()
        with clock.measure(signature, shapes):
            time.sleep(0.02)
            assert (clock.seconds() > before) == runs
        assert (clock.seconds() - before >= 0.02) == runs
    with pytest.raises(ValueError), clock.measure("c", ()):
        raise ValueError
    before = clock.seconds()
    with clock.measure("c", ()):  # a call that failed may not have compiled
        time.sleep(0.02)
    assert clock.seconds() > before
    never = FirstRuns("m", compiles=False)
    with never.measure("a", ()):
        time.sleep(0.01)
    assert never.seconds() == 0


def test_calls_at_the_same_time_count_once():
    clock = FirstRuns("m", compiles=True)

    def call(number):
        with clock.measure("a", number):
            time.sleep(0.3)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.3 <= clock.seconds() < 0.85  # 0.9 one after the other


def test_more_seconds_are_counted_from_the_beginning():
    granted = iter([0.05, 0.1, 0.1])

    async def main():
        begin = time.monotonic()
        with pytest.raises(asyncio.TimeoutError):
            await run_within(asyncio.sleep(60), 0.05, lambda: next(granted))
        return time.monotonic() - begin

    assert 0.14 <= asyncio.run(main()) < 5


class Compiling(FakeServable):
    """Takes 1.2 s for each new number of rows."""

    def __init__(self):
        super().__init__()
        self.first_runs, self.seen = FirstRuns("m", compiles=True), set()

    def run(self, signature, inputs):
        rows = len(inputs["text"])
        with self.first_runs.measure(signature, rows):
            time.sleep(0 if rows in self.seen else 1.2)
            self.seen.add(rows)
            return super().run(signature, inputs)


@pytest.mark.parametrize(("limit", "client", "passes"), [
    (0.6, None, True),  # the limit of the server does not count what is compiled
    (0.6, 9.0, True),
    (0.6, 0.8, False),  # the client's does
    (9.0, 0.6, False),
])  # fmt: skip
def test_a_request_does_not_pay_for_the_compiler(tmp_path, limit, client, passes):
    (tmp_path / "1").mkdir()
    core = ServerCore(ServerSettings(models={"m": tmp_path}, timeout_seconds=limit))
    servable = Compiling()

    async def main():
        signature = servable.signatures["echo"]
        await asyncio.wait_for(core.run(servable, signature, echo_request("a"), client), 5)
        await core.batcher.close()

    if passes:
        asyncio.run(main())
        return
    with pytest.raises(ServingError, match=r"longer than 0\.6 seconds"):
        asyncio.run(main())


def test_a_request_that_takes_too_long_still_ends(tmp_path):
    (tmp_path / "1").mkdir()
    servable = Compiling()
    servable.seen.add(1)
    servable.gate.clear()
    clock = servable.first_runs
    with clock.measure("echo", 1):
        pass
    core = ServerCore(ServerSettings(models={"m": tmp_path}, timeout_seconds=0.2))

    async def main():
        try:
            with pytest.raises(ServingError, match=r"longer than 0\.2 seconds\."):
                await core.run(servable, servable.signatures["echo"], echo_request("a"))
        finally:
            servable.gate.set()

    asyncio.run(main())
    assert np.isclose(clock.seconds(), 0, atol=0.05)
