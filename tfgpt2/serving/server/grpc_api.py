"""TensorFlow Serving's gRPC API: `PredictionService` and `ModelService`; health and reflection."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    model_service_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

from tfgpt2.serving.server.api_key import has_key
from tfgpt2.serving.server.grpc_limits import CallLimits, connection_options
from tfgpt2.serving.server.responses import metadata_response, status_response
from tfgpt2.serving.server.server_core import ModelSpec, ServerCore
from tfgpt2.serving.server.serving_error import ServingError, cut, from_exception, invalid
from tfgpt2.serving.server.signature import DEFAULT_SIGNATURE
from tfgpt2.serving.server.tensor_protos import inputs_from_protos
from tfgpt2.serving.server.version_manager import NO_VERSIONS

_MAX_DETAILS = 2000  # bytes
_SERVICES = tuple(
    service.full_name
    for file in (prediction_service_pb2, model_service_pb2, health_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)


def make_server(core: ServerCore, calls: CallLimits | None = None) -> grpc.aio.Server:
    """Makes the gRPC server; the caller adds a port and starts it.

    Args:
        core: Runs the requests.
        calls: Limits of its calls, for a caller that stops the server by them.
    """
    limit = core.settings.max_body_bytes
    server = grpc.aio.server(
        interceptors=[calls or CallLimits(core.settings.receive_seconds)],
        options=[
            *connection_options(core.settings),
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a port in use is an error
        ],
    )
    add_prediction = prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server
    add_prediction(_PredictionService(core), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(core), server)
    health_pb2_grpc.add_HealthServicer_to_server(_Health(core), server)
    if not core.settings.api_key:  # the list of services has no key to check
        reflection.enable_server_reflection([*_SERVICES, reflection.SERVICE_NAME], server)
    return server


class _Servicer:
    """Key check, metrics and errors of both services."""

    def __init__(self, core: ServerCore):
        self._core = core

    @contextlib.asynccontextmanager
    async def _handling(self, context: Any, model: str) -> AsyncIterator[None]:
        """Checks the key, records metrics, and converts errors to gRPC's."""
        try:
            with self._core.measure("grpc", model):
                self._check_key(context)
                try:
                    yield
                except Exception as error:
                    raise from_exception(error) from error
        except ServingError as error:
            await context.abort(grpc.StatusCode[error.code], _details(error.message))

    def _check_key(self, context: Any) -> None:
        key = self._core.settings.api_key
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if key and not has_key(_bytes(given), key):
            raise ServingError("UNAUTHENTICATED", "Send the metadata 'authorization: Bearer KEY'.")


def _unimplemented(message: str) -> Callable[[_Servicer, Any, Any], Awaitable[None]]:
    """Makes a method that fails."""

    async def method(self: _Servicer, request: Any, context: Any) -> None:
        model = request.model_spec.name if hasattr(request, "model_spec") else ""
        async with self._handling(context, model):
            raise ServingError("UNIMPLEMENTED", message)

    return method


class _PredictionService(_Servicer, prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and metadata; the other methods are not implemented."""

    async def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802  (gRPC's name)
        """Runs a signature."""
        async with self._handling(context, request.model_spec.name):
            with self._core.lease(_model_spec(request)) as servable:
                name = request.model_spec.signature_name or DEFAULT_SIGNATURE
                if name not in servable.signatures:
                    raise ServingError(
                        "FAILED_PRECONDITION", f'Serving signature key "{cut(name)}" not found.'
                    )
                signature = servable.signatures[name]
                names = _output_names(request.output_filter, signature.outputs)
                outputs = await self._core.run(
                    servable,
                    signature,
                    inputs_from_protos(
                        signature, request.inputs, self._core.settings.max_body_bytes
                    ),
                    context.time_remaining(),
                )
                response = predict_pb2.PredictResponse()
                response.model_spec.name = servable.name
                response.model_spec.version.value = servable.version
                response.model_spec.signature_name = name
                for key in names:
                    response.outputs[key].CopyFrom(_to_proto(outputs[key]))
                return response

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Returns the signatures of a version."""
        async with self._handling(context, request.model_spec.name):
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            if not request.metadata_field:
                raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
            for field in request.metadata_field:
                if field != "signature_def":
                    raise invalid(f"Metadata field {cut(field)} is not supported")
            with self._core.lease(_model_spec(request)) as servable:
                return metadata_response(servable)

    Classify = _unimplemented("Classify is for models of tf.Example. Use Predict instead.")
    Regress = _unimplemented("Regress is for models of tf.Example. Use Predict instead.")
    MultiInference = _unimplemented(
        "MultiInference is for models of tf.Example. Use Predict instead."
    )


class _ModelService(_Servicer, model_service_pb2_grpc.ModelServiceServicer):
    """Status of versions."""

    async def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Returns the status of versions."""
        async with self._handling(context, request.model_spec.name):
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            name, version, _ = _model_spec(request)
            return status_response(self._core.models.get(name, NO_VERSIONS).statuses(version))

    HandleReloadConfigRequest = _unimplemented("The models are fixed when this server starts.")


class _Health(health_pb2_grpc.HealthServicer):
    """gRPC's health service, which Kubernetes and load balancers ask; needs no key, as `/healthz`.

    The server, named by an empty text or by a service, is healthy when each model has an available
    version. `Watch` is not implemented, as its clients expect of many servers.
    """

    def __init__(self, core: ServerCore):
        self._core = core

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Returns whether requests are answered."""
        if request.service not in ("", *_SERVICES):
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"There is no such service. Received: {cut(request.service)}."
                f" There are: {', '.join(_SERVICES)}.",
            )
        states = health_pb2.HealthCheckResponse
        status = states.SERVING if self._core.models.ready() else states.NOT_SERVING
        return states(status=status)


def _model_spec(request: Any) -> ModelSpec:
    spec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    return ModelSpec(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _output_names(output_filter: Any, outputs: Any) -> list[str]:
    """Returns the names of the outputs to send; all if none is named."""
    names = list(output_filter)
    for number, name in enumerate(names):
        if name not in outputs:
            raise invalid(
                f"output tensor alias not found in signature: {cut(name)} Outputs expected to be in"
                f" the set {{{','.join(sorted(outputs))}}}."
            )
        if name in names[:number]:
            raise invalid(f"duplicate output tensor alias: {name}")
    return names or list(outputs)


def _to_proto(array: Any) -> Any:
    return tf.make_tensor_proto(array, tf.string if array.dtype == object else None, array.shape)


def _details(message: str) -> str:
    """Cuts a message to what a client is sure to receive.

    It is sent as a header in which each byte may take three. Headers over 8 KiB replace the error
    by one of the connection.
    """
    return message.encode()[:_MAX_DETAILS].decode("utf-8", "ignore")


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
