"""Message types of TensorFlow Serving's configuration that its Python package lacks."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto


def message_type(name, **fields):
    """Makes a message type from `name=(number, type, repeated)` of each field."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package=name.lower())
    file.syntax = "proto3"
    made = file.message_type.add(name=name)
    for field, (number, kind, repeated) in fields.items():
        entry = made.field.add(name=field, number=number)
        entry.label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
        if kind == "wrapped":
            entry.type, entry.type_name = FIELD.TYPE_MESSAGE, f".{name.lower()}.Int64Value"
        elif kind == "prometheus":
            entry.type, entry.type_name = FIELD.TYPE_MESSAGE, f".{name.lower()}.PrometheusConfig"
        else:
            entry.type = getattr(FIELD, f"TYPE_{kind}")
    wrapped = file.message_type.add(name="Int64Value")
    wrapped.field.add(name="value", number=1, type=FIELD.TYPE_INT64, label=FIELD.LABEL_OPTIONAL)
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, type=FIELD.TYPE_BOOL, label=FIELD.LABEL_OPTIONAL)
    prometheus.field.add(name="path", number=2, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{name.lower()}.{name}"))


# Source: session_bundle_config.proto and monitoring_config.proto of tensorflow/serving.
BatchingParameters = message_type(
    "BatchingParameters", max_batch_size=(1, "wrapped", False),
    batch_timeout_micros=(2, "wrapped", False), max_enqueued_batches=(3, "wrapped", False),
    num_batch_threads=(4, "wrapped", False), allowed_batch_sizes=(6, "INT64", True),
    pad_variable_length_inputs=(7, "BOOL", False),
)  # fmt: skip
MonitoringConfig = message_type("MonitoringConfig", prometheus_config=(1, "prometheus", False))
