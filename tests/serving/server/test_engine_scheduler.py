"""Continuous batching with an engine in plain Python: who gets a slot, and until when."""

import asyncio
import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support.fake_servable import tensor_info
from tfgpt2.serving.server.engine_answers import generate_row, merge_rows, stream_row
from tfgpt2.serving.server.engine_scheduler import EngineScheduler
from tfgpt2.serving.server.servable import StartedRow
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.settings import BatchSettings, ServerSettings
from tfgpt2.serving.server.signature import Signature

INPUTS = {"text": tensor_info("string", -1), "max_new_tokens": tensor_info("int32", -1),
          "stop": tensor_info("string", -1, -1)}  # fmt: skip
OUTPUTS = dict.fromkeys(("text", "text_bytes", "token_ids", "num_tokens", "token_logprobs",
                         "logprob", "finish_reason", "prompt_tokens", "truncated"))  # fmt: skip
GENERATE = Signature("generate", INPUTS, OUTPUTS, {})
SIGNATURES = {
    "generate": GENERATE,
    "engine_start": Signature("engine_start", INPUTS, {}, {}),
    "engine_start_ids": Signature("engine_start_ids", INPUTS, {}, {}),
}


class FakeEngine:
    """Continues a text with its own letters, one a token; `bad` texts fail, together with others.

    Attributes:
        rounds: The texts of the active rows of each round.
        gate: Rounds wait while it is cleared.
    """

    def __init__(self):
        self.rows, self.rounds, self.starts = [], [], []
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False

    @property
    def num_slots(self):
        return len(self.rows)

    def clear(self):
        self.rows = []

    def start(self, signature, requests, padded):
        texts = [one["text"][0].decode() for one in requests]
        self.starts.append(texts)
        if "bad" in texts:
            raise ValueError("a bad text")
        rows = [
            [text, int(one["max_new_tokens"][0]), 0]
            for text, one in zip(texts, requests, strict=True)
        ]
        return rows + [["", 0, 0]] * (padded - len(rows)), [StartedRow(len(t), 0) for t in texts]

    def join(self, started, kept, slots):
        rows = [self.rows[slot] for slot in kept]
        rows += [row for state, count in started for row in state[:count]]
        self.rows = [list(row) for row in rows] + [["", 0, 0]] * (slots - len(rows))

    def advance(self, active, steps):
        assert self.gate.wait(30)
        if self.broken:
            raise RuntimeError("the engine is broken")
        self.rounds.append([row[0] for row, on in zip(self.rows, active, strict=True) if on])
        for row in self.rows:
            row[2] = min(row[1], row[2] + steps)
        ids = np.zeros((len(self.rows), 100), np.int32)
        for slot, (text, _, count) in enumerate(self.rows):
            ids[slot, :count] = [ord(text[i % len(text)]) for i in range(count)]
        done = [count == most for _, most, count in self.rows]
        return {
            "token_ids": ids,
            "token_logprobs": -ids.astype(np.float32),
            "num_tokens": np.array([row[2] for row in self.rows], np.int32),
            "finish_reason": np.array([b"length" if one else b"running" for one in done], object),
            "stop_cut": np.full(len(self.rows), -1, np.int32),
        }

    def knows_texts(self, ids):
        return True

    def token_texts(self, ids):
        return [(bytes([one]), bytes([one])) for one in ids]


class Turnstile:
    """A gate that lets one round through for each release: a reader gets every round by itself."""

    def __init__(self):
        self.turns = threading.Semaphore(0)

    def wait(self, timeout):
        return self.turns.acquire(timeout=timeout)

    def release(self):
        self.turns.release()


class World:
    """A scheduler with its engine."""

    def __init__(self, slots=2, **limits):
        self.engine, self.executor = FakeEngine(), ThreadPoolExecutor(1)
        settings = ServerSettings(
            {"m": Path(__file__).parent},
            engine_slots=slots,
            stream_tokens=4,
            batching=BatchSettings(**limits),
        )
        self.observed = []
        self.scheduler = EngineScheduler(
            self.engine, SIGNATURES, settings, self.executor, self.observed.append
        )

    def inputs(self, text, tokens):
        return {
            "text": np.array([text.encode()], object),
            "max_new_tokens": np.array([tokens], np.int32),
            "stop": np.array([[b""]], object),
        }

    def generate(self, text, tokens):
        return asyncio.ensure_future(
            generate_row(self.scheduler, GENERATE, self.inputs(text, tokens))
        )

    def stream(self, text, tokens):
        return stream_row(self.scheduler, GENERATE, self.inputs(text, tokens))


def run(test):
    """Runs a coroutine and checks that nothing is left."""

    async def wrapped():
        world = await test()
        await world.scheduler.close()
        assert (world.scheduler.num_waiting, world.scheduler.num_running) == (0, 0)
        assert world.engine.rows == []  # the state is not kept
        world.executor.shutdown()

    asyncio.run(asyncio.wait_for(wrapped(), 60))


def test_short_texts_do_not_wait_for_long_ones():
    async def test():
        world = World()
        order = []
        tasks = [
            world.generate(text, tokens)
            for text, tokens in (("long", 40), ("one", 4), ("two", 4), ("three", 8))
        ]
        for number, task in enumerate(tasks):
            task.add_done_callback(lambda _, number=number: order.append(number))
        outputs = await asyncio.gather(*tasks)
        assert order == [1, 2, 3, 0]
        assert [out["text"][0] for out in outputs[1:3]] == [b"oneo", b"twot"]
        assert world.engine.rounds[:3] == [["long", "one"], ["long", "two"], ["long", "three"]]
        merged = merge_rows(outputs)
        assert merged["token_ids"].shape == (4, 40) and merged["num_tokens"].tolist() == [
            40,
            4,
            4,
            8,
        ]
        assert sum(one.tokens for one in world.observed) == 56
        assert sum(one.prompt_tokens for one in world.observed) == 4 + 3 + 3 + 5
        return world

    run(test)


def test_streams_are_the_text_and_one_that_is_left_frees_its_slot():
    async def test():
        world = World(slots=1)
        world.engine.gate = Turnstile()
        pieces = []
        async with contextlib.aclosing(world.stream("abc", 10)) as chunks:
            world.engine.gate.release()
            async for chunk in chunks:
                pieces.append(chunk)
                world.engine.gate.release()
        assert "".join(piece.text for piece in pieces) == "abcabcabca"
        assert [piece.num_tokens for piece in pieces] == [4, 8, 10]
        assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
        world.engine.gate = threading.Event()
        world.engine.gate.set()
        async with contextlib.aclosing(world.stream("left", 90)) as chunks:
            await anext(chunks)
            waiting = world.generate("next", 4)
            await asyncio.sleep(0)
        rounds = len(world.engine.rounds)
        assert (await waiting)["text"][0] == b"next"
        left = [texts for texts in world.engine.rounds[rounds:] if "left" in texts]
        assert len(left) <= 1  # the round that was running
        return world

    run(test)


def test_one_that_waits_can_leave():
    async def test():
        world = World(slots=1)
        world.engine.gate.clear()
        first, second, third = (world.generate(text, 4) for text in ("a", "b", "c"))
        while world.scheduler.num_waiting != 2:
            await asyncio.sleep(0.001)
        second.cancel()
        await asyncio.wait((second,))
        world.engine.gate.set()
        await asyncio.gather(first, third)
        assert world.engine.starts == [["a"], ["c"]]
        return world

    run(test)


def test_only_the_request_at_fault_fails():
    async def test():
        world = World(slots=4)
        world.engine.gate.clear()
        first = world.generate("first", 4)
        while not world.engine.starts:
            await asyncio.sleep(0.001)
        tasks = [world.generate(text, 4) for text in ("uvw", "bad", "xyz")]
        while world.scheduler.num_waiting != 3:
            await asyncio.sleep(0.001)
        world.engine.gate.set()
        found = await asyncio.gather(first, *tasks, return_exceptions=True)
        texts = [one if isinstance(one, Exception) else one["text"][0] for one in found]
        assert texts[:2] == [b"firs", b"uvwu"] and texts[3] == b"xyzx"
        assert isinstance(texts[2], ServingError) and "a bad text" in texts[2].message
        assert ["uvw", "bad", "xyz"] in world.engine.starts  # they were read together at first
        world.engine.broken = True
        with pytest.raises(ServingError, match="the engine is broken"):
            await world.generate("a", 4)
        world.engine.broken = False
        assert (await world.generate("a", 4))["text"][0] == b"aaaa"
        return world

    run(test)


def test_a_full_queue():
    async def test():
        world = World(slots=1, max_queue=2)
        world.engine.gate.clear()
        tasks = [world.generate("a", 4)]
        while not world.scheduler.num_running and not world.engine.starts:
            await asyncio.sleep(0.001)
        tasks += [world.generate("b", 4), world.generate("c", 4)]
        await asyncio.sleep(0)
        with pytest.raises(ServingError, match="The queue is full: 2 requests wait"):
            await world.generate("d", 4)
        world.engine.gate.set()
        await asyncio.gather(*tasks)
        return world

    run(test)


def test_long_prompts_are_read_alone_and_nothing_leaks():
    async def test():
        world = World(slots=8)
        world.engine.gate.clear()
        tasks = [world.generate("a", 4)]
        while not world.engine.starts:
            await asyncio.sleep(0.001)
        texts = ["b" * 3000, "c" * 3000, "d", "e"]
        tasks += [world.generate(text, 4) for text in texts]
        await asyncio.sleep(0)
        world.engine.gate.set()
        await asyncio.gather(*tasks)
        starts = [[one[0] for one in texts] for texts in world.engine.starts]
        assert starts == [["a"], ["b"], ["c"], ["d", "e"]]
        assert [len(texts) for texts in world.engine.rounds] == [1, 1, 3]
        return world

    run(test)
    world = World()
    scheduler = weakref.ref(world.scheduler)
    del world
    gc.collect()
    assert scheduler() is None
