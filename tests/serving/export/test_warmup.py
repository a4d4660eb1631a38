"""The warm-up file: read with the official messages, and a request for every shape."""

from itertools import product

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy_text
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.serving.export import warmup
from tfgpt2.serving.export.signatures.base import SignatureOptions
from tfgpt2.serving.export.signatures.registry import SIGNATURES, build, create
from tfgpt2.serving.export.warmup import WarmupRequest

SIZES = (1, 2)
NAMES = ("serving_default", "generate", "score", "inspect", "tokenize", "detokenize")


@pytest.fixture(scope="module")
def gen():
    return toy_text.generator()  # compiled, though nothing here runs it


def make_requests(generator, options):
    return warmup.make_requests(generator, create(generator, options))


@pytest.fixture(scope="module")
def records(gen):
    return make_requests(gen, SignatureOptions(names=NAMES, batch_sizes=SIZES))


def shapes_of_generate(gen, record):
    """Rows, prompt columns, output columns and stop table of the program a request runs."""
    values = {name: tf.fill([len(record.inputs["text"])], tf.cast(one.off, one.dtype))
              for name, one in REQUEST_OPTIONS.items()}  # fmt: skip
    values |= {name: record.inputs[name] for name in REQUEST_OPTIONS}
    pipeline = gen.pipeline
    encoded = pipeline.encode_texts(record.inputs["text"], values, record.inputs["stop"])
    request = pipeline.make_request(encoded)
    rows, columns = request.prompt.ids.shape
    return (
        rows,
        columns,
        request.output_buffer.shape[1],
        *request.params.stop_strings.table.shape[1:],
    )


def test_there_is_one_request_for_every_program(gen, records):
    found = [shapes_of_generate(gen, one) for one in records if one.signature == "generate"]
    shapes = set(product(SIZES, (16, 32, 64), (16, 32, 64), [1], [16]))
    # One row of at least 33 tokens leaves no room for 33 more in a context of 64.
    assert set(found) == shapes - {(1, 64, 64, 1, 16)} and len(set(found)) == len(found)
    for name in ("score", "inspect"):
        texts = [one.inputs["text"] for one in records if one.signature == name]
        found = [tuple(gen.pipeline.whole_text_prompt(text)[0].ids.shape) for text in texts]
        assert sorted(found) == sorted(product(SIZES, (16, 32, 64)))
    others = [one.signature for one in records if one.signature in ("tokenize", "detokenize",
                                                                    "serving_default")]  # fmt: skip
    assert sorted(others) == ["detokenize", "serving_default", "tokenize"]


def test_serving_default_alone_is_warmed_up_itself(gen):
    found = make_requests(gen, SignatureOptions(names=("serving_default",), batch_sizes=SIZES))
    shapes = [
        tuple(gen.pipeline.whole_text_prompt(one.inputs["text"])[0].ids.shape) for one in found
    ]
    assert sorted(shapes) == sorted(product(SIZES, (16, 32, 64)))


@pytest.mark.long
def test_writing_ends_after_a_token(records):
    """Otherwise a server would write hundreds of tokens for each shape before it is ready."""
    plain = toy_text.generator(jit_compile=False)
    function = build(create(plain, SignatureOptions(names=("generate",))))["generate"]
    for record in [one for one in records if one.signature == "generate"][:8:7]:
        out = function(**record.inputs)
        assert np.all(out["num_tokens"].numpy() <= 1), record.inputs["max_new_tokens"]


def test_official_messages_read_what_we_wrote(records, tmp_path):
    log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    long = WarmupRequest("detokenize", {"ids": tf.range(100)[None]})  # lengths of two bytes
    warmup.write_requests(tmp_path, "toy", [*records, long])
    data = tf.data.TFRecordDataset(str(tmp_path / "assets.extra" / "tf_serving_warmup_requests"))
    written = [log.PredictionLog.FromString(raw) for raw in data.as_numpy_iterator()]
    assert len(written) == len(records) + 1
    for message, record in zip(written, [*records, long], strict=True):
        assert message.WhichOneof("log_type") == "predict_log"
        request = message.predict_log.request
        assert request.model_spec.name == "toy"
        assert request.model_spec.signature_name == record.signature
        assert request.inputs.keys() == record.inputs.keys()
        for name, value in record.inputs.items():
            proto = request.inputs[name]
            assert proto.dtype == value.dtype.as_datatype_enum
            np.testing.assert_array_equal(tf.make_ndarray(proto), value.numpy())
        # Nothing beside: the official library writes the same number of bytes.
        assert message.ByteSize() == len(warmup.encode("toy", record))


def test_without_xla_there_is_one_request_for_each_signature():
    plain = toy_text.generator(jit_compile=False)
    found = make_requests(plain, SignatureOptions(batch_sizes=SIZES))
    stateful = ("engine_start", "engine_start_ids", "engine_join", "engine_advance")
    assert [one.signature for one in found] == [n for n in SIGNATURES if n not in stateful]


def test_more_than_a_server_takes(gen):
    options = SignatureOptions(names=("generate",), batch_sizes=tuple(range(2, 120)))
    with pytest.raises(ValueError, match="at most 1000 requests.*requests=1062"):
        make_requests(gen, options)
