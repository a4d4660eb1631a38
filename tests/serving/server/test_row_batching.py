"""Merging, padding and splitting rows; the queue's bounds; nobody pays for a neighbour."""

import asyncio
import threading
import time

import numpy as np
import pytest

from tests.support.fake_servable import ECHO, FakeServable, request
from tfgpt2.serving.server.batching import Batcher
from tfgpt2.serving.server.settings import BatchSettings
from tfgpt2.serving.server.status import ServingError


def run_all(requests, settings=None, servable=None, signature=ECHO):
    """Answers of requests that come at the same time."""
    servable = servable or FakeServable()

    async def main():
        batcher = Batcher(settings or BatchSettings(num_batch_threads=1))
        calls = (batcher.run(servable, signature, one) for one in requests)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await batcher.close()
        return answers

    return asyncio.run(main()), servable.batches


def texts(answer):
    return answer["text"].tolist()


def test_requests_share_a_batch_and_get_their_own_rows():
    asked = [
        request("a", "b", n=[1, 2]),
        request("c", n=3, stop=((b"x",),)),
        request("d", "e", n=9),
    ]
    answers, batches = run_all(asked)
    assert [texts(one) for one in answers] == [[b"a 1 ", b"b 2 "], [b"c 3 x"], [b"d 9 ", b"e 9 "]]
    assert len(batches) == 1
    # Five rows become eight; what is added repeats the first row of the last request.
    assert batches[0]["text"].tolist() == [b"a", b"b", b"c", b"d", b"e", b"d", b"d", b"d"]
    assert batches[0]["n"].tolist() == [1, 2, 3, 9, 9, 9, 9, 9]


def test_tables_of_strings_are_widened_with_empty_strings():
    asked = [request("a", stop=((b"x", b"y"),)), request("b", "c", stop=((b"z",),))]
    answers, batches = run_all(asked)
    assert len(batches) == 1
    assert batches[0]["stop"].tolist()[:3] == [[b"x", b"y"], [b"z", b""], [b"z", b""]]
    assert [texts(one) for one in answers] == [[b"a 1 x|y"], [b"b 1 z|", b"c 1 z|"]]


def test_other_axes_must_agree_to_share():
    from tests.support.fake_servable import spec
    from tfgpt2.serving.server.saved_model import Signature

    signature = Signature("ids", {"ids": spec("int32", -1, -1)}, {}, {})

    class Sums(FakeServable):
        def run(self, name, inputs):
            self.batches.append(inputs)
            return {"sum": inputs["ids"].sum(1)}

    asked = [{"ids": np.full((1, width), 1, np.int32)} for width in (2, 3, 2)]
    answers, batches = run_all(asked, servable=Sums(), signature=signature)
    assert [one["sum"].tolist() for one in answers] == [[2], [3], [2]]
    assert sorted(batch["ids"].shape for batch in batches) == [(1, 3), (2, 2)]


def test_a_batch_is_never_larger_than_allowed():
    settings = BatchSettings(max_batch_size=6, allowed_batch_sizes=(2, 6), num_batch_threads=1)
    answers, batches = run_all([request(f"{i}", f"{i}") for i in range(8)], settings)
    assert [texts(one)[0] for one in answers] == [b"%d 1 " % i for i in range(8)]
    assert {len(batch["text"]) for batch in batches} <= {2, 6} and len(batches) == 3
    with pytest.raises(ServingError, match="larger than maximum input batch size 6"):
        raise run_all([request(*"abcdefg")], settings)[0][0]


def test_without_batching_each_request_runs_as_it_is():
    answers, batches = run_all([request("a", "b", "c"), request("d")], BatchSettings(enabled=False))
    assert sorted(len(batch["text"]) for batch in batches) == [1, 3]
    assert texts(answers[1]) == [b"d 1 "]


def test_a_model_that_batches_in_its_graph_is_not_batched_twice():
    servable = FakeServable()
    servable.batches_itself = True
    run_all([request("a", "b", "c"), request("d")], servable=servable)
    assert sorted(len(batch["text"]) for batch in servable.batches) == [1, 3]


def test_no_rows_are_an_answer_too():
    answers, _ = run_all([request()])
    assert texts(answers[0]) == []


def test_one_fault_is_not_the_neighbours():
    servable = FakeServable()
    servable.poison = b"bad"
    answers, _ = run_all([request("a"), request("bad"), request("c")], servable=servable)
    assert texts(answers[0]) == [b"a 1 "] and texts(answers[2]) == [b"c 1 "]
    assert isinstance(answers[1], ServingError) and answers[1].code == "INVALID_ARGUMENT"
    assert answers[1].message == "poison"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            request("a", "b", n=[1, 2, 3]),
            "same number of rows, or 1. Received: text 2, n 3, stop 1",
        ),
        (request("a") | {"n": np.array([1.0])}, "Input 'n' must be int32. Received: float64"),
        (request("a") | {"n": np.array(1, np.int32)}, "must have the shape [any]. Received: []"),
        (request("a") | {"text": np.array([1], np.int32)}, "Input 'text' must be string"),
        (request("a") | {"stop": np.array([b""], object)}, "must have the shape [any, any]"),
    ],
)
def test_wrong_tensors_are_refused_before_they_wait(wrong, message):
    answers, batches = run_all([wrong])
    assert message in str(answers[0]) and not batches


def test_a_full_queue_refuses_and_recovers():
    servable = FakeServable()
    servable.gate.clear()

    async def main():
        settings = BatchSettings(enabled=False, max_queue=3, num_batch_threads=1)
        batcher = Batcher(settings)
        ask = lambda text: asyncio.ensure_future(  # noqa: E731
            batcher.run(servable, ECHO, request(text))
        )
        running = ask("0")
        await asyncio.sleep(0.05)
        waiting = [ask(f"{i}") for i in (1, 2, 3)]
        await asyncio.sleep(0.05)
        assert batcher.waiting == 3 and batcher.running == 1
        with pytest.raises(ServingError) as refused:
            await ask("4")
        assert refused.value.code == "RESOURCE_EXHAUSTED" and refused.value.http == 429
        waiting[1].cancel()  # a client that leaves makes room
        await asyncio.sleep(0.05)
        assert batcher.waiting == 2
        late = ask("5")
        servable.gate.set()
        done = await asyncio.gather(running, waiting[0], waiting[2], late)
        assert [texts(one) for one in done] == [[b"0 1 "], [b"1 1 "], [b"3 1 "], [b"5 1 "]]
        await batcher.close()

    asyncio.run(main())
    assert len(servable.batches) == 4  # the one that left was never run


def test_the_loop_never_waits_for_the_model():
    servable = FakeServable()
    servable.gate.clear()
    threading.Timer(0.5, servable.gate.set).start()

    async def main():
        batcher = Batcher(BatchSettings())
        call = asyncio.ensure_future(batcher.run(servable, ECHO, request("a")))
        longest, last = 0.0, time.monotonic()
        while not call.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        await batcher.close()
        return longest

    assert asyncio.run(main()) < 0.3
