"""Cancelling at every moment: no task goes on without the one that waits for it.

The tests need no TensorFlow but for those of streams.
"""

import asyncio
import functools
import os
import shutil
import subprocess

import pytest

from tests.support.cancel_moments import MOMENTS, WAITS, cancel_after, steps
from tests.support.paths import ROOT
from tfgpt2.serving.server.cancellation import gather, run_within

PYTHONS = ("3.10", "3.11", "3.12", "3.13")  # asyncio's waiting changed in 3.12


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("wait", WAITS)
def test_a_cancelled_caller_does_not_go_on(wait, moment):
    _, went_on, tasks = asyncio.run(cancel_after(moment, WAITS[wait]))
    assert not went_on and tasks == 1


def test_the_moments_are_before_and_after_the_result():
    returned = [asyncio.run(cancel_after(moment, WAITS["one"]))[0] for moment in MOMENTS]
    assert not returned[0] and returned[-1]


@pytest.mark.parametrize("version", PYTHONS)
def test_the_same_on_other_pythons(version):
    python = shutil.which(f"python{version}")
    environment = {"PATH": os.environ["PATH"], "PYENV_VERSION": version}  # where pyenv has it
    run = functools.partial(subprocess.run, capture_output=True, text=True, env=environment)
    if python is None or run([python, "--version"]).returncode:
        pytest.skip(f"no Python {version} on this machine")
    done = run([python, "-m", "tests.support.cancel_moments"], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    expected = [f"{wait} {moment} ended 1" for wait in WAITS for moment in MOMENTS]
    assert done.stdout.splitlines() == expected


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
