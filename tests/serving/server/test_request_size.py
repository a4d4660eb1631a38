"""What a small message may stand for: shapes, filled values, rows, prompts, and batches."""

import asyncio
import json
import time
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from tests.support.asgi import send_request
from tests.support.byte_servable import GENERATE, ByteServable
from tests.support.fake_servable import ECHO, FakeServable, echo_request, tensor_info
from tfgpt2.serving.server.app import make_app
from tfgpt2.serving.server.json_request import parse_predict
from tfgpt2.serving.server.request_batcher import RequestBatcher
from tfgpt2.serving.server.request_size import full_bytes
from tfgpt2.serving.server.server_core import ServerCore
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.settings import BatchSettings, ServerSettings
from tfgpt2.serving.server.signature import Signature
from tfgpt2.serving.server.tensor_protos import inputs_from_protos
from tfgpt2.serving.server.version_manager import ModelRegistry, VersionManager

LIMIT = 4 * 2**20
CUBE = Signature("cube", {"x": tensor_info("int32", -1, -1, -1)}, {}, {})
ANY = Signature("any", {"x": tensor_info("int32")._replace(shape=None)}, {}, {})


def tensor(dtype, shape, **values):
    proto = tensor_pb2.TensorProto(dtype=tf.as_dtype(dtype).as_datatype_enum, **values)
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    return proto


@pytest.fixture
def traced_bytes():
    """Returns the most bytes that Python has held at a time since the start of the test."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("signature", "shape"),
    [
        (CUBE, [2**40, 0, 1]), (CUBE, [1, 0, 2**40]), (CUBE, [0, 2**32, 2**32]),
        (CUBE, [1, 2**32, 2**32]), (CUBE, [-1, -1, 1]), (CUBE, [-1, -4, -4]), (CUBE, [1, 1, 2**21]),
        (CUBE, [2**62, 2**62, 2**62]), (ANY, [1] * 9), (ANY, [2**62] * 100_000), (ANY, [0] * 9),
        (ANY, [-1] * 2), (ANY, [0, 2**21]),
    ],
)  # fmt: skip
def test_every_axis_of_a_shape_is_bounded(signature, shape):
    # An axis of 0 makes an array empty, however large the other axes are.
    proto = tensor("int32", shape, int_val=[] if 0 in shape else [1])
    start = time.monotonic()
    with pytest.raises(ServingError) as caught:
        inputs_from_protos(signature, {"x": proto}, LIMIT)
    assert caught.value.http == 400 and time.monotonic() - start < 2


def test_shapes_within_the_limit():
    for shape in ([2, 3, 4], [1, 0, 2**19], [1, 1, 2**20]):
        proto = tensor("int32", shape, int_val=[7] if 0 not in shape else [])
        array = inputs_from_protos(CUBE, {"x": proto}, LIMIT)["x"]
        assert array.shape == tuple(shape) and set(array.flat) <= {7}


def test_filled_values_are_counted_before_they_are_made(traced_bytes):
    text = tf.make_tensor_proto(["a"])
    filled = tensor("string", [1, 2**24], string_val=[b"x"])
    with pytest.raises(ServingError, match="must not exceed 4194304 bytes"):
        inputs_from_protos(ECHO, {"text": text, "stop": filled}, LIMIT)
    assert traced_bytes() < 10**6


def test_all_inputs_count_together():
    protos = {
        name: tensor("int32", [2**19], int_val=[1]) if name == "n" else tf.make_tensor_proto(["a"])
        for name in ("text", "n")
    }
    stop = tensor("string", [1, 2**18 + 2**17], string_val=[b"x"])
    inputs_from_protos(ECHO, protos | {"stop": tf.make_tensor_proto([["x"]])}, LIMIT)
    with pytest.raises(ServingError, match="must not exceed"):
        inputs_from_protos(ECHO, protos | {"stop": stop}, LIMIT)


def test_a_type_of_another_signature_is_no_reason_to_make_an_array(traced_bytes):
    proto = tensor("float32", [2**20], float_val=[1])
    with pytest.raises(ServingError, match="Input 'n' must be int32. Received: float32"):
        inputs_from_protos(
            ECHO, {"text": proto, "n": proto, "stop": proto} | {"text": tf.make_tensor_proto(["a"])}
        )
    assert traced_bytes() < 10**6


def test_a_message_without_strings_has_empty_ones():
    protos = {"text": tensor("string", [2]), "stop": tensor("string", [2, 1])}
    arrays = inputs_from_protos(ECHO, protos)
    assert arrays["text"].tolist() == [b"", b""] and arrays["stop"].tolist() == [[b""], [b""]]


def run(inputs, limit=LIMIT, signature=ECHO, servable=None, **settings):
    """Runs requests at the same time; returns their results, and the batches."""
    servable = servable or FakeServable()

    async def main():
        batcher = RequestBatcher(BatchSettings(num_batch_threads=1, **settings), max_bytes=limit)
        calls = (batcher.run(servable, signature, one) for one in inputs)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await batcher.close()
        return answers

    return asyncio.run(main()), servable.batches


def test_a_text_for_many_rows_counts_for_each_of_them():
    long = "a" * 2**18
    (refused, accepted), batches = run(
        [echo_request(long, n=[*range(32)]), echo_request(long, n=[*range(8)])]
    )
    assert "Received: 8389" in str(refused) and refused.code == "INVALID_ARGUMENT"
    assert len(accepted["text"]) == 8 and len(batches) == 1


def test_filled_texts_count_for_each_row():
    text = tensor("string", [32], string_val=[b"a" * 2**18])
    protos = {"text": text, "stop": tf.make_tensor_proto([[""]])}
    (refused,), batches = run([inputs_from_protos(ECHO, protos, LIMIT)])
    assert "must not exceed" in str(refused) and not batches


def test_a_spelled_out_request_is_not_larger_than_its_message():
    texts = [f"{i:04}" * 2**13 for i in range(32)]
    request = echo_request(*texts, n=[*range(32)], stop=[[b"s" * 200] * 64] * 32)
    size = full_bytes(request, 32)
    assert size == 2**20 + 32 * (8 + 4 + 64 * 208)
    answers, _ = run([request], limit=size)
    assert len(answers[0]["text"]) == 32
    assert isinstance(run([request], limit=size - 1)[0][0], ServingError)


def test_a_request_without_rows_runs_no_model():
    (answer,), batches = run([echo_request()])
    assert answer["text"].tolist() == [] and not batches
    wide = {
        "text": np.zeros([0], object),
        "n": np.zeros([0], np.int32),
        "stop": np.zeros([0, 2**18], object),
    }
    (answer,), batches = run([wide])
    assert answer["text"].tolist() == [] and not batches


def test_outputs_without_rows_have_the_types_of_the_signature():
    outputs = {
        "scores": tensor_info("float32", -1, 50257),
        "ids": tensor_info("int32", -1, -1),
        "any": tensor_info("string")._replace(shape=None),
    }
    empty = Signature("s", {}, outputs, {}).empty_outputs()
    assert {name: (a.shape, a.dtype.kind) for name, a in empty.items()} == {
        "scores": ((0, 50257), "f"), "ids": ((0, 0), "i"), "any": ((0,), "O")
    }  # fmt: skip
    for shape in ((), (3,), (1, -1)):
        with pytest.raises(ServingError, match="has no rows"):
            Signature("s", {}, {"x": tensor_info("int32", *shape)}, {}).empty_outputs()


def test_a_wide_request_does_not_widen_others():
    wide = echo_request("wide", stop=[[b"x"] * 1000])
    others = [echo_request(f"{i}", stop=[[b"s"] * width]) for i, width in enumerate((1, 3, 64))]
    # The others fill a batch, and so do not depend on how long it waits.
    asked = [others[0], wide, others[1], others[2]]
    answers, batches = run(asked, max_batch_size=3, batch_timeout_micros=500_000)
    assert not any(isinstance(answer, Exception) for answer in answers)
    assert sorted(batch["stop"].shape for batch in batches) == [(1, 1000), (3, 64)]


def test_padding_repeats_the_smallest_row():
    stop = [[b"x" * 9], [b""], [b""]]
    _, (batch,) = run([echo_request("a" * 1000, "b", "cc", stop=stop)])
    assert [len(text) for text in batch["text"]] == [1000, 1, 2, 1]
    assert batch["stop"].tolist() == [[b"x" * 9], [b""], [b""], [b""]]


def test_padding_without_strings():
    signature = Signature("ids", {"ids": tensor_info("int32", -1, -1)}, {}, {})

    class Sums(FakeServable):
        def run(self, name, inputs):
            self.batches.append(inputs)
            return {"sum": inputs["ids"].sum(1)}

    ids = np.array([[1], [2], [3]], np.int32)
    (answer,), _ = run([{"ids": ids}], signature=signature, servable=Sums())
    assert answer["sum"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_too_many_rows_of_json_are_not_parsed(key):
    body = json.dumps({"signature_name": "", key: ["a"] * 33 + [[[1]]]}).encode()
    one = Signature("serving_default", {"text": tensor_info("string", -1)}, {}, {})
    with pytest.raises(ServingError, match="Task size 34 is larger than maximum input batch size"):
        parse_predict(body, {"serving_default": one}, 32)


def ask(folder, requests, **options):
    """Sends REST requests to a model with signatures of a text model; also returns its calls."""
    servable = ByteServable()

    async def main():
        core = ServerCore(ServerSettings(models={"m": folder}, port=0, **options))
        (folder / "1").mkdir(exist_ok=True)
        (folder / "1" / "saved_model.pb").touch()
        manager = VersionManager("m", folder, {}, load=lambda *_: servable)
        core.models = ModelRegistry({"m": manager}, poll_seconds=3600)
        await core.models.start()
        app = make_app(core)
        answers = [
            await send_request(app, "POST", path, json.dumps(document).encode())
            for path, document in requests
        ]
        await core.close()
        return answers

    return asyncio.run(main()), servable.calls


def test_rest_counts_one_text_for_many_rows(tmp_path):
    path = b"/v1/models/m:predict"
    settings = {name: value.tolist() for name, value in GENERATE.defaults.items()}
    settings["stop"] = [[""]]
    inputs = settings | {"text": ["a" * 1000], "seed": [*range(32)]}
    document = {"signature_name": "generate", "inputs": inputs}
    (refused, accepted), calls = ask(
        tmp_path,
        [(path, document), (path, document | {"inputs": inputs | {"seed": [1, 2]}})],
        max_body_bytes=16384,
    )
    assert refused.status_code == 400 and "must not exceed 16384 bytes" in refused.text
    assert accepted.status_code == 200 and len(calls) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"n": 64}, {"best_of": 64}, {"n": 64, "stream": True}, {"prompt": ["a" * 1000] * 64},
        {"prompt": [[97] * 1000] * 8, "n": 8},
    ],
)  # fmt: skip
def test_completions_count_a_prompt_for_every_text(tmp_path, changed):
    body = {"model": "m", "prompt": "a" * 1000, "max_tokens": 1}
    path = b"/v1/completions"
    (refused, accepted), calls = ask(
        tmp_path, [(path, body | changed), (path, body | {"n": 8})], max_body_bytes=2**15
    )
    assert refused.status_code in (400, 413), refused.text
    assert accepted.status_code == 200 and len(accepted.json()["choices"]) == 8
    generated = sum(len(inputs["text"]) for name, inputs in calls if name == "generate")
    assert 8 <= generated <= 16  # with padding; those of the first request would be 64
