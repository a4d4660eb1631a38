"""gRPC against a running server, with TensorFlow Serving's stubs."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.support.server_requests import MODEL, OFF

DTYPES = {"temperature": tf.float32, "top_p": tf.float32, "min_p": tf.float32,
          "repetition_penalty": tf.float32, "seed": tf.int64}  # fmt: skip


@pytest.fixture(scope="module")
def channel(served):
    with grpc.insecure_channel(served.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request(signature="generate", model=MODEL, **inputs):
    message = predict_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(value, DTYPES.get(name)))
    return message


def rpc_error(call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=120, **options)
    return caught.value.code().name, caught.value.details()


def test_predict_uses_the_defaults_of_the_export(prediction):
    only_text = prediction.Predict(
        request(text=["To be"], max_new_tokens=[8], seed=[3]), timeout=120
    )
    assert only_text.model_spec.version.value == 1
    assert only_text.model_spec.signature_name == "generate"
    outputs = {name: tf.make_ndarray(proto) for name, proto in only_text.outputs.items()}
    assert outputs["num_tokens"].tolist() == [8] and outputs["token_ids"].dtype == np.int32
    assert outputs["text_bytes"][0].decode() == outputs["text"][0].decode()


def test_predict_equals_rest(prediction, served):
    import httpx

    from tests.support.server_requests import column_request, predict

    settings = {name: [value] for name, value in OFF.items()}
    answer = prediction.Predict(request(text=["To be", "So"], stop=[[""]], **settings), timeout=120)
    with httpx.Client(base_url=served.url, timeout=120) as client:
        rest = predict(client, column_request(["To be", "So"]))
    texts = tf.make_ndarray(answer.outputs["text"])
    assert [text.decode() for text in texts] == rest["text"]


def test_outputs_can_be_chosen(prediction):
    message = request("tokenize", text=["To be"])
    message.output_filter.append("ids")
    assert list(prediction.Predict(message, timeout=120).outputs) == ["ids"]
    message.output_filter.append("ids")
    assert rpc_error(prediction.Predict, message) == (
        "INVALID_ARGUMENT", "duplicate output tensor alias: ids"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (request(model="x", text=["a"]), "NOT_FOUND", "Latest(x)"),
        (request("x", text=["a"]), "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
        (request(), "INVALID_ARGUMENT", "Missing but required: {text}"),
        (request(text=["a"], x=[1]), "INVALID_ARGUMENT", "Sent extra: {x}"),
        (request(text=[1]), "INVALID_ARGUMENT", "Input 'text' must be string. Received: int32"),
        (request(text=["a"], top_k=[1.5]), "INVALID_ARGUMENT", "Input 'top_k' must be int32"),
        (request(text="a"), "INVALID_ARGUMENT", "must have the shape [any]"),
        (request(text=["a", "b"], seed=[1, 2, 3]), "INVALID_ARGUMENT", "same number of rows"),
        (request(text=["a"], max_new_tokens=[5000]), "INVALID_ARGUMENT", "at most 4096"),
        (request(text=["a" * 5_000_000]), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_errors_have_the_code_and_message(prediction, message, code, words):
    found = rpc_error(prediction.Predict, message)
    assert found[0] == code and words in found[1]


def test_a_tensor_with_a_huge_shape_is_rejected(prediction):
    message = request(text=["a"])
    proto = message.inputs["top_k"]
    proto.dtype, proto.int_val[:] = tf.int32.as_datatype_enum, [1]
    proto.tensor_shape.dim.add().size = 10**12
    code, words = rpc_error(prediction.Predict, message)
    assert code == "INVALID_ARGUMENT" and "must not exceed 4194304 bytes" in words


def test_the_deadline_of_the_client(prediction):
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(request(text=["a"], max_new_tokens=[200]), timeout=0.001)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_metadata(prediction):
    message = get_model_metadata_pb2.GetModelMetadataRequest()
    message.model_spec.name = MODEL
    words = "GetModelMetadataRequest must specify at least one metadata_field"
    assert rpc_error(prediction.GetModelMetadata, message) == ("INVALID_ARGUMENT", words)
    message.metadata_field.append("signature_def")
    answer = prediction.GetModelMetadata(message, timeout=120)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def["generate"].defaults) == {*OFF, "stop"}
    message.metadata_field.append("x")
    assert "x is not supported" in rpc_error(prediction.GetModelMetadata, message)[1]


def test_status(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    message = get_model_status_pb2.GetModelStatusRequest()
    assert rpc_error(stub.GetModelStatus, message) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    message.model_spec.name = MODEL
    found = stub.GetModelStatus(message, timeout=120).model_version_status
    assert [(one.version, one.state, one.status.error_code) for one in found] == [(1, 30, 0)]
    message.model_spec.version.value = 4
    assert rpc_error(stub.GetModelStatus, message)[0] == "NOT_FOUND"


def test_other_methods_are_unimplemented(prediction):
    assert rpc_error(prediction.Classify, classification_pb2.ClassificationRequest()) == (
        "UNIMPLEMENTED", "Classify is for models of tf.Example. Use Predict instead."
    )  # fmt: skip


def test_health_and_the_list_of_services(channel):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "tensorflow.serving.PredictionService", "grpc.health.v1.Health"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
        assert answer.status == serving
    code, details = rpc_error(health.Check, health_pb2.HealthCheckRequest(service="x" * 9999))
    assert code == "NOT_FOUND" and "no such service" in details and len(details) < 1000
    database = ProtoReflectionDescriptorDatabase(channel)
    names = set(database.get_services())
    assert {"tensorflow.serving.PredictionService", "grpc.health.v1.Health"} <= names
    file = database.FindFileContainingSymbol("tensorflow.serving.PredictionService")
    assert "Predict" in [method.name for method in file.service[0].method]
