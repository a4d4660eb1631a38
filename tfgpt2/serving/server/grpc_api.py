"""gRPC: `PredictionService` and `ModelService` with the official stubs."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import AsyncIterator
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfgpt2.serving.server.models import VersionStatus
from tfgpt2.serving.server.saved_model import Servable, from_protos
from tfgpt2.serving.server.service import Service, Target
from tfgpt2.serving.server.status import ServingError, from_exception, invalid

_STATES = get_model_status_pb2.ModelVersionStatus


def make_server(service: Service) -> grpc.aio.Server:
    """Makes the gRPC server of a service; the caller gives it a port and starts it."""
    limit = service.settings.max_body_bytes
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a port that is taken is an error, not a second server
        ]
    )
    faces = _Prediction(service), _Status(service)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(faces[0], server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(faces[1], server)
    return server


def status_response(statuses: list[VersionStatus]) -> Any:
    """Version states as the message that both faces send."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for found in statuses:
        entry = response.model_version_status.add()
        entry.version = found.version
        entry.state = getattr(_STATES, found.state)
        # The field is an enumeration of its own, with gRPC's names.
        entry.status.error_code = (
            entry.status.DESCRIPTOR.fields_by_name["error_code"]
            .enum_type.values_by_name[found.code]
            .number
        )
        entry.status.error_message = found.message
    return response


def metadata_response(servable: Servable) -> Any:
    """A version's signatures as the message that both faces send."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in servable.signature_defs.items():
        signatures.signature_def[name].CopyFrom(definition)
    response.metadata["signature_def"].Pack(signatures)
    return response


class _Face:
    """What the services have in common."""

    def __init__(self, service: Service):
        self._service = service

    @contextlib.asynccontextmanager
    async def _answering(self, context: Any, model: str) -> AsyncIterator[None]:
        """Checks the key, counts, and turns errors into gRPC's."""
        try:
            with self._service.counted("grpc", model):
                self._check_key(context)
                try:
                    yield
                except Exception as error:
                    raise from_exception(error) from error
        except ServingError as error:
            await context.abort(grpc.StatusCode[error.code], error.message)

    def _check_key(self, context: Any) -> None:
        key = self._service.settings.api_key
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if key and not hmac.compare_digest(_bytes(given), f"Bearer {key}".encode()):
            raise ServingError("UNAUTHENTICATED", "Send the metadata 'authorization: Bearer KEY'.")


class _Prediction(_Face, prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and metadata; the others say that they are not there."""

    async def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802  (gRPC's name)
        """Runs a signature."""
        async with self._answering(context, request.model_spec.name):
            with self._service.lease(_target(request)) as servable:
                name = request.model_spec.signature_name or "serving_default"
                if name not in servable.signatures:
                    raise ServingError(
                        "FAILED_PRECONDITION", f'Serving signature key "{name}" not found.'
                    )
                signature = servable.signatures[name]
                wanted = _wanted(request.output_filter, signature.outputs)
                outputs = await self._service.run(
                    servable,
                    signature,
                    from_protos(signature, request.inputs),
                    context.time_remaining(),
                )
                response = predict_pb2.PredictResponse()
                response.model_spec.name = servable.name
                response.model_spec.version.value = servable.version
                response.model_spec.signature_name = name
                for key in wanted:
                    response.outputs[key].CopyFrom(_to_proto(outputs[key]))
                return response

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tells a version's signatures."""
        async with self._answering(context, request.model_spec.name):
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            if not request.metadata_field:
                raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
            for field in request.metadata_field:
                if field != "signature_def":
                    raise invalid(f"Metadata field {field} is not supported")
            with self._service.lease(_target(request)) as servable:
                return metadata_response(servable)

    async def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Is not offered."""
        await self._refuse(context, request.model_spec.name, "Classify")

    async def Regress(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Is not offered."""
        await self._refuse(context, request.model_spec.name, "Regress")

    async def MultiInference(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Is not offered."""
        await self._refuse(context, "", "MultiInference")

    async def _refuse(self, context: Any, model: str, what: str) -> None:
        async with self._answering(context, model):
            raise ServingError(
                "UNIMPLEMENTED", f"{what} is for models of tf.Example. Use Predict instead."
            )


class _Status(_Face, model_service_pb2_grpc.ModelServiceServicer):
    """The state of versions."""

    async def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tells which versions there are and how they are."""
        async with self._answering(context, request.model_spec.name):
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            name, version, _ = _target(request)
            missing = "Could not find any versions of model {name}"
            return status_response(self._service.models.get(name, missing).statuses(version))

    async def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Is not offered."""
        async with self._answering(context, ""):
            raise ServingError("UNIMPLEMENTED", "The models are fixed when this server starts.")


def _target(request: Any) -> Target:
    spec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    return Target(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _wanted(output_filter: Any, outputs: Any) -> list[str]:
    """Names of the outputs to send; all when none is named."""
    wanted = list(output_filter)
    for number, name in enumerate(wanted):
        if name not in outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the"
                f" set {{{','.join(sorted(outputs))}}}."
            )
        if name in wanted[:number]:
            raise invalid(f"duplicate output tensor alias: {name}")
    return wanted or list(outputs)


def _to_proto(array: Any) -> Any:
    return tf.make_tensor_proto(array, tf.string if array.dtype == object else None, array.shape)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
