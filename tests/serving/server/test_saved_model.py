"""Loading a small SavedModel: defaults, warm-up files, error messages."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfgpt2.serving.server.saved_model import WARMUP_FILE, SavedModel, dummy_inputs
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.tensor_protos import inputs_from_protos


class Scale(tf.Module):
    """Returns x times a factor; fails for negative numbers."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"),
                                  tf.TensorSpec([None], tf.float32, "factor")])  # fmt: skip
    def scale(self, x, factor=tf.constant([3.0])):  # noqa: B008  (becomes the default)
        with tf.control_dependencies([tf.debugging.assert_non_negative(x, "negative x")]):
            return {"y": x * factor}


class Batched(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def double(self, x):
        inner = tf.nondifferentiable_batch_function(2, 8, 1000)(lambda x: 2.0 * x)
        return {"y": inner(x)}


@pytest.fixture
def saved(tmp_path):
    module = Scale()
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.scale})
    return tmp_path


def predict(**inputs):
    request = predict_pb2.PredictRequest()
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.array(value, np.float32)))
    return request


def write_warm_up(folder, *logs):
    (folder / WARMUP_FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def log_of(request):
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )


def test_defaults_fill_missing_inputs(saved):
    servable = SavedModel("m", 1, saved)
    signature = servable.signatures["serving_default"]
    inputs = inputs_from_protos(signature, predict(x=[1, 2]).inputs)
    assert inputs["factor"].tolist() == [3.0]
    assert servable.run("serving_default", inputs)["y"].tolist() == [3.0, 6.0]
    with pytest.raises(ServingError, match=r"Missing but required: \{x\}"):
        inputs_from_protos(signature, predict(factor=[1]).inputs)
    assert not servable.batches_in_graph


def test_a_warm_up_file_runs_before_a_version_serves(saved):
    write_warm_up(saved, log_of(predict(x=[1])), log_of(predict(x=[1, 2], factor=[2, 2])))
    assert SavedModel("m", 1, saved).warm_up() == 2


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (log_of(predict(x=[-1])), "negative x"),
        (log_of(predict(z=[1])), r"Sent extra: \{z\}"),
        (prediction_log_pb2.PredictionLog(classify_log={}), "not a `predict_log`"),
    ],
)
def test_a_failing_record_fails_the_version(saved, log, message):
    write_warm_up(saved, log_of(predict(x=[1])), log)
    with pytest.raises(Exception, match=message):
        SavedModel("m", 1, saved).warm_up()


def test_without_a_file_each_signature_runs_once(saved):
    servable = SavedModel("m", 1, saved)
    assert dummy_inputs(servable.signatures["serving_default"])["x"].tolist() == [1.0]
    assert servable.warm_up() == 1


def test_batching_in_the_graph_is_detected(tmp_path):
    module = Batched()
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.double})
    servable = SavedModel("m", 1, tmp_path)
    assert servable.batches_in_graph
    assert servable.run("serving_default", {"x": np.ones(3, np.float32)})["y"].tolist() == [2, 2, 2]
