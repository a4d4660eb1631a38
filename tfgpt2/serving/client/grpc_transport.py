"""The gRPC interface of TensorFlow Serving, over grpcio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from tfgpt2.errors import nearest, value_error
from tfgpt2.serving.client import messages
from tfgpt2.serving.client.exceptions import BadAnswer, Endpoint, from_status, no_answer_within
from tfgpt2.serving.client.records import ServedModel, Signature, TensorInfo, VersionStatus
from tfgpt2.serving.client.request_settings import INPUT_DTYPES, as_bytes

_CHANNEL = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # grpc itself waits up to two minutes between two attempts to reconnect.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_DTYPE_NAMES = {number: name for name, (number, _, _) in messages.DTYPES.items()}


class GrpcTransport:
    """Protocol buffers to and from a server.

    Args:
        endpoint: Server, model and version; the URL is `grpc://host:port`, or `grpcs://` with TLS.
        api_key: Sent as `authorization: Bearer`; None sends none.
    """

    def __init__(self, endpoint: Endpoint, api_key: str | None) -> None:
        self._endpoint = endpoint
        scheme, _, target = endpoint.url.partition("://")
        self._metadata = () if api_key is None else (("authorization", f"Bearer {api_key}"),)
        if scheme == "grpcs":
            secure = grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(target, secure, options=_CHANNEL)
        else:
            self._channel = grpc.insecure_channel(target, options=_CHANNEL)
        self._calls = {
            method: self._channel.unary_unary(
                f"/tensorflow.serving.{service}/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=messages.CLASSES[f"{method}Response"].FromString,
            )
            for service, method in (
                ("PredictionService", "Predict"),
                ("PredictionService", "GetModelMetadata"),
                ("ModelService", "GetModelStatus"),
            )
        }
        self._dtypes: dict[str, dict[str, str]] = {}

    def predict(
        self, signature: str, inputs: Mapping[str, list[Any]], timeout: float
    ) -> dict[str, list[Any]]:
        """Runs a signature: columns in, columns out."""
        request = self._request("PredictRequest")
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            dtype = INPUT_DTYPES.get(name) or self._served_dtype(signature, name, timeout)
            if dtype == "DT_STRING":
                value = _encode(value)
            messages.to_tensor(value, dtype, request.inputs[name])
        answer = self._call("Predict", request, timeout)
        try:
            return {
                name: _decode(name, messages.from_tensor(tensor))
                for name, tensor in answer.outputs.items()
            }
        except ValueError as error:
            problem = f"gave an answer that cannot be read: {error}"
            raise BadAnswer(self._endpoint, problem) from error

    def status(self, timeout: float) -> list[VersionStatus]:
        """Requests the state of each version."""
        answer = self._call("GetModelStatus", self._request("GetModelStatusRequest"), timeout)
        codes = dict(enumerate(messages.CODES))
        return [
            VersionStatus(
                one.version,
                messages.STATES.get(one.state, str(one.state)),
                codes.get(one.status.error_code, str(one.status.error_code)),
                one.status.error_message,
            )
            for one in answer.model_version_status
        ]

    def metadata(self, timeout: float) -> ServedModel:
        """Requests the signatures."""
        request = self._request("GetModelMetadataRequest")
        request.metadata_field.append("signature_def")
        answer = self._call("GetModelMetadata", request, timeout)
        found = messages.CLASSES["SignatureDefMap"].FromString(
            answer.metadata["signature_def"].value
        )
        signatures = {
            name: Signature(_tensor_infos(one.inputs), _tensor_infos(one.outputs))
            for name, one in found.signature_def.items()
        }
        return ServedModel(answer.model_spec.name, answer.model_spec.version.value, signatures)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _request(self, kind: str) -> Any:
        request = messages.CLASSES[kind]()
        request.model_spec.name = self._endpoint.model
        if self._endpoint.version is not None:
            request.model_spec.version.value = self._endpoint.version
        return request

    def _call(self, method: str, request: Any, timeout: float) -> Any:
        try:
            return self._calls[method](request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise no_answer_within(self._endpoint, timeout) from error
            raise from_status(self._endpoint, error.code().name, error.details() or "") from error

    def _served_dtype(self, signature: str, name: str, timeout: float) -> str:
        """The type of an input that the contract does not have, from the model's metadata."""
        if signature not in self._dtypes:
            signatures = self.metadata(timeout).signatures
            if signature not in signatures:
                known = nearest(signature, signatures)
                raise value_error(f"There is no signature {signature!r}.", fix=known)
            inputs = signatures[signature].inputs
            self._dtypes[signature] = {key: info.dtype for key, info in inputs.items()}
        known = self._dtypes[signature]
        if name not in known:
            raise value_error(f"{signature!r} has no input {name!r}.", fix=nearest(name, known))
        return known[name]


def _encode(value: Any) -> Any:
    return [_encode(one) for one in value] if isinstance(value, (list, tuple)) else as_bytes(value)


def _decode(name: str, value: Any) -> Any:
    """Strings as text, unless the output's name ends in `_bytes`; numbers as they are."""
    if isinstance(value, list):
        return [_decode(name, one) for one in value]
    if isinstance(value, bytes) and not name.endswith("_bytes"):
        return value.decode(errors="replace")
    return value


def _tensor_infos(entries: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(
            _DTYPE_NAMES.get(info.dtype, str(info.dtype)),
            tuple(dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in entries.items()
    }
