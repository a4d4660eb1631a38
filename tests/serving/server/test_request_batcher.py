"""Merging, padding and splitting rows; limits of the queue; isolation of failures."""

import asyncio
import threading
import time

import numpy as np
import pytest

from tests.support.fake_servable import ECHO, FakeServable, echo_request
from tfgpt2.serving.server.request_batcher import RequestBatcher
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.settings import BatchSettings


def run_all(requests, settings=None, servable=None, signature=ECHO):
    """Returns the results of concurrent requests, and the batches."""
    servable = servable or FakeServable()

    async def main():
        batcher = RequestBatcher(settings or BatchSettings(num_batch_threads=1))
        calls = (batcher.run(servable, signature, one) for one in requests)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await batcher.close()
        return answers

    return asyncio.run(main()), servable.batches


def texts(answer):
    return answer["text"].tolist()


def test_requests_share_a_batch_and_get_their_own_rows():
    asked = [
        echo_request("a", "b", n=[1, 2]),
        echo_request("c", n=3, stop=((b"x",),)),
        echo_request("d", "e", n=9),
    ]
    answers, batches = run_all(asked)
    assert [texts(one) for one in answers] == [[b"a 1 ", b"b 2 "], [b"c 3 x"], [b"d 9 ", b"e 9 "]]
    assert len(batches) == 1
    # Five rows become eight; what is added repeats the first of the shortest texts.
    assert batches[0]["text"].tolist() == [b"a", b"b", b"c", b"d", b"e", b"a", b"a", b"a"]
    assert batches[0]["n"].tolist() == [1, 2, 3, 9, 9, 1, 1, 1]


def test_strings_of_free_width_are_padded_with_empty_strings():
    asked = [echo_request("a", stop=((b"x", b"y"),)), echo_request("b", "c", stop=((b"z",),))]
    answers, batches = run_all(asked)
    assert len(batches) == 1
    assert batches[0]["stop"].tolist()[:3] == [[b"x", b"y"], [b"z", b""], [b"z", b""]]
    assert [texts(one) for one in answers] == [[b"a 1 x|y"], [b"b 1 z|", b"c 1 z|"]]


def test_other_axes_must_agree_to_share():
    from tests.support.fake_servable import tensor_info
    from tfgpt2.serving.server.signature import Signature

    signature = Signature("ids", {"ids": tensor_info("int32", -1, -1)}, {}, {})

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
    answers, batches = run_all([echo_request(f"{i}", f"{i}") for i in range(8)], settings)
    assert [texts(one)[0] for one in answers] == [b"%d 1 " % i for i in range(8)]
    assert {len(batch["text"]) for batch in batches} <= {2, 6} and len(batches) == 3
    with pytest.raises(ServingError, match="larger than maximum input batch size 6"):
        raise run_all([echo_request(*"abcdefg")], settings)[0][0]


def test_without_batching_each_request_runs_as_it_is():
    answers, batches = run_all(
        [echo_request("a", "b", "c"), echo_request("d")], BatchSettings(enabled=False)
    )
    assert sorted(len(batch["text"]) for batch in batches) == [1, 3]
    assert texts(answers[1]) == [b"d 1 "]


def test_a_model_that_batches_in_its_graph_is_not_batched_twice():
    servable = FakeServable()
    servable.batches_in_graph = True
    run_all([echo_request("a", "b", "c"), echo_request("d")], servable=servable)
    assert sorted(len(batch["text"]) for batch in servable.batches) == [1, 3]


def test_a_failing_request_fails_alone():
    servable = FakeServable()
    servable.poison = b"bad"
    answers, _ = run_all(
        [echo_request("a"), echo_request("bad"), echo_request("c")], servable=servable
    )
    assert texts(answers[0]) == [b"a 1 "] and texts(answers[2]) == [b"c 1 "]
    assert isinstance(answers[1], ServingError) and answers[1].code == "INVALID_ARGUMENT"
    assert answers[1].message == "poison"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            echo_request("a", "b", n=[1, 2, 3]),
            "same number of rows, or 1. Received: text 2, n 3, stop 1",
        ),
        (echo_request("a") | {"n": np.array([1.0])}, "Input 'n' must be int32. Received: float64"),
        (
            echo_request("a") | {"n": np.array(1, np.int32)},
            "must have the shape [any]. Received: []",
        ),
        (echo_request("a") | {"text": np.array([1], np.int32)}, "Input 'text' must be string"),
        (echo_request("a") | {"stop": np.array([b""], object)}, "must have the shape [any, any]"),
    ],
)
def test_invalid_tensors_are_rejected_before_they_are_queued(wrong, message):
    answers, batches = run_all([wrong])
    assert message in str(answers[0]) and not batches


def test_a_full_queue_rejects_and_recovers():
    servable = FakeServable()
    servable.gate.clear()

    async def main():
        settings = BatchSettings(enabled=False, max_queue=3, num_batch_threads=1)
        batcher = RequestBatcher(settings)
        ask = lambda text: asyncio.ensure_future(  # noqa: E731
            batcher.run(servable, ECHO, echo_request(text))
        )
        running = ask("0")
        await asyncio.sleep(0.05)
        waiting = [ask(f"{i}") for i in (1, 2, 3)]
        await asyncio.sleep(0.05)
        assert batcher.num_queued == 3 and batcher.num_running == 1
        with pytest.raises(ServingError) as refused:
            await ask("4")
        assert refused.value.code == "RESOURCE_EXHAUSTED" and refused.value.http == 429
        waiting[1].cancel()  # a client that disconnects makes room
        await asyncio.sleep(0.05)
        assert batcher.num_queued == 2
        late = ask("5")
        servable.gate.set()
        done = await asyncio.gather(running, waiting[0], waiting[2], late)
        assert [texts(one) for one in done] == [[b"0 1 "], [b"1 1 "], [b"3 1 "], [b"5 1 "]]
        await batcher.close()

    asyncio.run(main())
    assert len(servable.batches) == 4  # the cancelled one was never run


def test_waiting_requests_have_a_limit_of_bytes():
    servable = FakeServable()
    servable.gate.clear()

    async def main():
        settings = BatchSettings(enabled=False, max_queue_bytes=200, num_batch_threads=1)
        batcher = RequestBatcher(settings)
        ask = lambda text: asyncio.ensure_future(  # noqa: E731
            batcher.run(servable, ECHO, echo_request(text))
        )
        running = ask("0")
        await asyncio.sleep(0.05)
        waiting = [ask("x" * 300)]  # alone it may wait
        await asyncio.sleep(0.05)
        assert batcher.queued_bytes > 300
        with pytest.raises(ServingError, match="queue is full: 1 requests wait") as refused:
            await ask("y")
        assert refused.value.http == 429
        servable.gate.set()
        await asyncio.gather(running, *waiting)
        assert batcher.queued_bytes == 0
        assert texts(await ask("y")) == [b"y 1 "]
        await batcher.close()

    asyncio.run(main())


def test_the_event_loop_never_waits_for_the_model():
    servable = FakeServable()
    servable.gate.clear()
    threading.Timer(0.5, servable.gate.set).start()

    async def main():
        batcher = RequestBatcher(BatchSettings())
        call = asyncio.ensure_future(batcher.run(servable, ECHO, echo_request("a")))
        longest, last = 0.0, time.monotonic()
        while not call.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        await batcher.close()
        return longest

    assert asyncio.run(main()) < 0.3
