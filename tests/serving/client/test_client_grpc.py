"""The client over gRPC, against servers and messages made of the official stubs."""

from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from tests.support import fake_model
from tfgpt2.serving import Client
from tfgpt2.serving.client import exceptions, messages

pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed")
from tensorflow_serving.apis import (  # noqa: E402
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

STATUS = get_model_status_pb2.ModelVersionStatus.DESCRIPTOR
OFFICIAL = [
    predict_pb2.PredictRequest, predict_pb2.PredictResponse, model_pb2.ModelSpec,
    get_model_status_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusResponse,
    get_model_metadata_pb2.GetModelMetadataRequest, get_model_metadata_pb2.GetModelMetadataResponse,
    get_model_metadata_pb2.SignatureDefMap, meta_graph_pb2.SignatureDef, tensor_pb2.TensorProto,
]  # fmt: skip


# Messages ---------------------------------------------------------------------------------------


def collect(descriptor, found):
    """All messages that a message refers to, by full name."""
    if descriptor.full_name not in found:
        found[descriptor.full_name] = descriptor
        for field in descriptor.fields:
            if field.message_type is not None:
                collect(field.message_type, found)
    return found


def shape_of(field):
    # Enumerations are written down as int32; on the wire they are the same.
    kind = field.type if field.enum_type is None else field.TYPE_INT32
    target = field.message_type
    if target is not None and target.GetOptions().map_entry:
        target = [shape_of(entry) for entry in target.fields]
    elif target is not None:
        target = target.name
    return field.number, kind, field.is_repeated, target


def test_every_field_is_that_of_the_official_stubs():
    official = {}
    for message in OFFICIAL:
        collect(message.DESCRIPTOR, official)
    official = {found.name: found for found in official.values()}
    for name, made in messages.CLASSES.items():
        theirs = {field.name: field for field in official[name].fields}
        for field in made.DESCRIPTOR.fields:
            assert shape_of(field) == shape_of(theirs[field.name]), (name, field.name)
    states = STATUS.enum_types_by_name["State"].values
    assert {one.number: one.name for one in states} == messages.STATES
    codes = {one.number: one.name for one in grpc_codes()}
    assert {number: codes[number] for number in range(17)} == dict(enumerate(messages.CODES))
    for name, (number, _, _) in messages.DTYPES.items():
        assert types_pb2.DataType.Value(name) == number


def grpc_codes():
    return (
        STATUS.fields_by_name["status"].message_type.fields_by_name["error_code"].enum_type.values
    )


ARRAYS = [
    np.array([[1.5, -2.0], [0.0, 3.25]], np.float32), np.zeros([3, 0], np.int32),
    np.array([2**62, -1]), np.array([[b"a", b"\xff"], [b"", b"z"]], object), np.zeros([0], object),
    np.full([4, 3], 7, np.int32), np.array([True, False]), np.array([-3, 3], np.int8),
    np.array(5.0), np.zeros([2, 0, 3], np.float32), np.array([[[1], [2]]], np.uint8),
]  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{list(array.shape)}")
def test_tensors_of_tensorflow_are_read(array):
    proto = tf.make_tensor_proto(array)
    ours = messages.CLASSES["TensorProto"].FromString(proto.SerializeToString())
    assert messages.from_tensor(ours) == array.tolist()
    if array.size:  # values one by one, and one that stands for all
        proto.ClearField("tensor_content")
        field = messages._BY_NUMBER[proto.dtype][1]
        proto.ClearField(field)
        getattr(proto, field).append(array.flat[0].item() if array.dtype != object else
                                     array.flat[0])  # fmt: skip
        ours = messages.CLASSES["TensorProto"].FromString(proto.SerializeToString())
        assert messages.from_tensor(ours) == tf.make_ndarray(proto).tolist()


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{list(array.shape)}")
def test_tensorflow_reads_tensors(array):
    name = types_pb2.DataType.Name(tf.as_dtype(array.dtype).as_datatype_enum)
    tensor = messages.CLASSES["TensorProto"]()
    messages.to_tensor(array.tolist(), name, tensor)
    theirs = tensor_pb2.TensorProto.FromString(tensor.SerializeToString())
    if array.ndim == 3 and not array.size:
        assert list(tensor.tensor_shape.dim)[1].size == 0
        return  # lists do not tell what lies behind an empty one
    found = tf.make_ndarray(theirs)
    assert found.tolist() == array.tolist() and found.shape == array.shape


def test_broken_tensors():
    tensor = messages.CLASSES["TensorProto"]()
    with pytest.raises(ValueError, match="differ in length"):
        messages.to_tensor([[1], [1, 2]], "DT_INT32", tensor)
    with pytest.raises(ValueError, match="type 99"):
        messages.from_tensor(messages.CLASSES["TensorProto"](dtype=99))
    wrong = messages.CLASSES["TensorProto"](dtype=3, int_val=[1, 2, 3])
    wrong.tensor_shape.dim.add().size = 2
    with pytest.raises(ValueError, match="3 values"):
        messages.from_tensor(wrong)


# A server ---------------------------------------------------------------------------------------


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self):
        self.requests, self.codes, self.keys = [], [], []

    def Predict(self, request, context):
        self.requests.append(request)
        self.keys.append(dict(context.invocation_metadata()).get("authorization"))
        if self.codes:
            context.abort(self.codes.pop(0), "it says why")
        inputs = {name: tf.make_ndarray(value).tolist() for name, value in request.inputs.items()}
        outputs = fake_model.SIGNATURES[request.model_spec.signature_name](inputs)
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        for name, value in outputs.items():
            is_number = name.endswith(("tokens", "ids", "truncated", "prob", "probs", "perplexity"))
            response.outputs[name].CopyFrom(
                tf.make_tensor_proto(value, None if is_number else tf.string)
            )
        return response

    def GetModelMetadata(self, request, context):
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = 4
        known = get_model_metadata_pb2.SignatureDefMap()
        info = known.signature_def["odd"].inputs["number"]
        info.dtype = types_pb2.DT_INT64
        info.tensor_shape.dim.add().size = -1
        response.metadata["signature_def"].Pack(known)
        return response


class Models(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(self, request, context):
        if request.model_spec.version.value == 9:
            context.abort(grpc.StatusCode.NOT_FOUND, "no version 9")
        status = get_model_status_pb2.GetModelStatusResponse()
        one = status.model_version_status.add()
        one.version, one.state = 4, 30
        one.status.error_code = 0
        return status


@pytest.fixture
def served():
    server = grpc.server(futures.ThreadPoolExecutor(4))
    predictions = Predictions()
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(predictions, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield predictions, f"grpc://127.0.0.1:{port}"
    server.stop(None)


def test_the_same_answers_as_over_rest(served):
    import httpx

    predictions, url = served
    rest = Client("http://h", transport=httpx.MockTransport(fake_model.FakeRestServer()))
    with Client(url, "m", 4, batch_size=2) as client:
        for ask in (
            lambda c: c.generate(["To", "", "To be"], max_new_tokens=[60, 0, 5], stop="\n", seed=1),
            lambda c: c.generate("To", signature="serving_default"),
            lambda c: c.score(["abc", ""]),
            lambda c: c.tokenize(["é", ""]),
            lambda c: c.detokenize([[0xC3], [97, 98]]),
            lambda c: list(c.stream("To", max_new_tokens=90, stop="fly", chunk_tokens=5)),
            lambda c: c.predict("detokenize", {"ids": [[0xC3]]}),
        ):
            assert ask(client) == ask(rest)
    spec = predictions.requests[0].model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 4, "generate")
    sent = {name: tf.make_ndarray(value) for name, value in predictions.requests[0].inputs.items()}
    types = {name: value.dtype.name for name, value in sent.items()}
    assert types == {
        "text": "object", "stop": "object", "max_new_tokens": "int32", "min_new_tokens": "int32",
        "temperature": "float32", "top_k": "int32", "top_p": "float32", "min_p": "float32",
        "repetition_penalty": "float32", "seed": "int64"}  # fmt: skip
    assert sent["stop"].shape == (1, 1)


def test_status_metadata_and_key(served):
    predictions, url = served
    client = Client(url, "m", api_key="secret")
    (status,) = client.status()
    assert (status.version, status.state, status.error_code) == (4, "AVAILABLE", "OK")
    served_model = client.metadata()
    assert (served_model.name, served_model.version) == ("m", 4)
    info = served_model.signatures["odd"].inputs["number"]
    assert (info.dtype, info.shape) == ("DT_INT64", (-1,))
    client.tokenize("a")
    assert predictions.keys == ["Bearer secret"]
    with pytest.raises(exceptions.ModelNotFound, match=r"version 9\) at grpc://.*no version 9"):
        Client(url, version=9).status()
    # Inputs beyond the contract get their type from the server.
    with pytest.raises(ValueError, match="'odd' has no input 'nmber'. Did you mean 'number'"):
        client.predict("odd", {"nmber": [1]})


def test_trouble(served):
    predictions, url = served
    client = Client(url, timeout=5)
    predictions.codes = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert client.tokenize("a").ids == [97] and len(predictions.requests) == 3
    for code, kind in (
        (grpc.StatusCode.INVALID_ARGUMENT, exceptions.InvalidRequest),
        (grpc.StatusCode.INTERNAL, exceptions.ServerFault),
        (grpc.StatusCode.UNAUTHENTICATED, exceptions.Unauthorized),
        (grpc.StatusCode.NOT_FOUND, exceptions.ModelNotFound),
    ):
        predictions.codes, predictions.requests = [code, code], []
        with pytest.raises(kind, match=f"{code.name}.: it says why"):
            client.tokenize("a")
        assert len(predictions.requests) == 1
        predictions.codes = []
    with pytest.raises(ValueError, match="`transport` is for http"):
        Client(url, transport=object())


def test_nobody_there():
    with Client("grpc://127.0.0.1:9", retries=1) as client:
        with pytest.raises(exceptions.Unreachable, match=r"grpc://127.0.0.1:9 .* 2 attempts"):
            client.status()
