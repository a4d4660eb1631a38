"""Cancelling at every moment: no task goes on without the one that waits for it.

The tests need no TensorFlow but for those of streams.
"""

import asyncio

import pytest

from tfgpt2.serving.server.cancellation import gather, run_within

MOMENTS = range(12)  # steps of the event loop between a result and the cancellation


async def steps(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def cancel_after(moment, wait):
    """Cancels a task that waits for a result, some steps after the result is there.

    Returns whether it had returned before, and whether it went on after the cancellation.
    """
    result, went_on = asyncio.get_running_loop().create_future(), False

    async def work():
        return await result

    async def caller():
        nonlocal went_on
        assert await wait(work()) in ("done", ["done"])
        await asyncio.sleep(0)  # the next call of a request
        went_on = True
        await asyncio.sleep(0)

    task = asyncio.create_task(caller())
    await steps(10)
    result.set_result("done")
    await steps(moment)
    returned, went_on = went_on, False
    task.cancel()
    await asyncio.wait((task,))
    return returned, went_on, len(asyncio.all_tasks())


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "wait", [lambda work: run_within(work, 60), lambda work: gather([work])], ids=["one", "several"]
)
def test_a_cancelled_caller_does_not_go_on(wait, moment):
    _, went_on, tasks = asyncio.run(cancel_after(moment, wait))
    assert not went_on and tasks == 1


def test_the_moments_are_before_and_after_the_result():
    wait = lambda work: run_within(work, 60)  # noqa: E731
    returned = [asyncio.run(cancel_after(moment, wait))[0] for moment in MOMENTS]
    assert not returned[0] and returned[-1]


def test_time_is_up():
    ended = []

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(run_within(work(), 0.01))
    assert ended  # before the error


def test_the_first_error_ends_the_others():
    ended = []

    async def wait():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def fail():
        await asyncio.sleep(0)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        asyncio.run(gather([wait(), fail(), fail()]))
    assert ended


@pytest.mark.parametrize("moment", range(40))
def test_no_row_outlives_its_stream(tmp_path, moment):
    from tests.serving.server.test_streaming import make_inputs
    from tests.support.fake_text_servable import FakeTextServable
    from tfgpt2.serving.server.server_core import ServerCore
    from tfgpt2.serving.server.settings import ServerSettings
    from tfgpt2.serving.server.streaming import stream_rows

    servable = FakeTextServable()

    async def run(_, signature, inputs):  # takes as many steps as possible
        await steps(2)
        return servable.run(signature.name, inputs)

    async def main():
        core = ServerCore(ServerSettings(models={"m": tmp_path}))
        core.batcher.run = run
        inputs = make_inputs(b"a", 200)
        model = core.text_model(servable)
        inputs = {name: inputs[name] for name in model.signatures["generate"].inputs}
        chunks = stream_rows(model, inputs, stop_strings=[], chunk_tokens=2)
        taken = asyncio.create_task(anext(chunks))
        await steps(moment)
        before = len(servable.calls)
        taken.cancel()
        await asyncio.wait((taken,), timeout=5)
        assert taken.done(), "a row goes on"
        await chunks.aclose()
        await steps(50)
        # The stream notices one step later, and the row one more: a call may end meanwhile.
        assert len(servable.calls) <= before + 1 and len(asyncio.all_tasks()) == 1

    asyncio.run(main())
