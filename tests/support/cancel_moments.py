"""Cancels a task at every moment around a result of its work; needs Python's library only.

Another Python runs it as a program: python -m tests.support.cancel_moments
"""

import asyncio

from tfgpt2.serving.server.cancellation import gather, run_within

MOMENTS = range(12)  # steps of the event loop between a result and the cancellation
WAITS = {"one": lambda work: run_within(work, 60), "several": lambda work: gather([work])}


async def steps(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def cancel_after(moment, wait):
    """Cancels a task that waits for a result, some steps after the result is there.

    Returns whether it had returned before, whether it went on after the cancellation, and how many
    tasks are left.
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


if __name__ == "__main__":
    for name, wait in WAITS.items():
        for moment in MOMENTS:
            _, went_on, tasks = asyncio.run(cancel_after(moment, wait))
            print(name, moment, "went on" if went_on else "ended", tasks)
