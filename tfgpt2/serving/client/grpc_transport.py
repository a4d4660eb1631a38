"""The gRPC interface of TensorFlow Serving, over grpcio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from tfgpt2.errors import explain, nearest
from tfgpt2.serving.client import messages
from tfgpt2.serving.client.failures import BadAnswer, DeadlineExceeded, Place, from_status
from tfgpt2.serving.client.records import ServedModel, Signature, TensorInfo, VersionStatus
from tfgpt2.serving.client.settings import SETTINGS, as_bytes

_DTYPES = {name: f"DT_{one.dtype.upper()}".replace("FLOAT32", "FLOAT")
           for name, one in SETTINGS.items()}  # fmt: skip
_DTYPES |= {"text": "DT_STRING", "stop": "DT_STRING", "ids": "DT_INT32"}
_DTYPES |= {"question": "DT_STRING", "context": "DT_STRING"}
_CHANNEL = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # grpc itself waits up to two minutes between two looks at a server that went away.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class GrpcTransport:
    """Speaks protocol buffers with a server.

    Args:
        place: Server, model and version; the URL is `grpc://host:port`, or `grpcs://` with TLS.
        api_key: Sent as `authorization: Bearer`; None sends none.
    """

    def __init__(self, place: Place, api_key: str | None) -> None:
        self._place = place
        scheme, _, target = place.url.partition("://")
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
                response_deserializer=messages.CLASSES[answer].FromString,
            )
            for service, method, answer in (
                ("PredictionService", "Predict", "PredictResponse"),
                ("PredictionService", "GetModelMetadata", "GetModelMetadataResponse"),
                ("ModelService", "GetModelStatus", "GetModelStatusResponse"),
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
            dtype = _DTYPES.get(name) or self._dtype(signature, name, timeout)
            if dtype == "DT_STRING":
                value = _encoded(value)
            messages.to_tensor(value, dtype, request.inputs[name])
        answer = self._call("Predict", request, timeout)
        try:
            return {
                name: _decoded(name, messages.from_tensor(tensor))
                for name, tensor in answer.outputs.items()
            }
        except ValueError as error:
            raise BadAnswer(self._place, f"gave an answer that cannot be read: {error}") from error

    def status(self, timeout: float) -> list[VersionStatus]:
        """Asks for the state of each version."""
        answer = self._call("GetModelStatus", self._request("GetModelStatusRequest"), timeout)
        return [
            VersionStatus(
                one.version,
                messages.STATES.get(one.state, str(one.state)),
                messages.CODES[one.status.error_code]
                if one.status.error_code < len(messages.CODES)
                else str(one.status.error_code),
                one.status.error_message,
            )
            for one in answer.model_version_status
        ]

    def metadata(self, timeout: float) -> ServedModel:
        """Asks for the signatures."""
        request = self._request("GetModelMetadataRequest")
        request.metadata_field.append("signature_def")
        answer = self._call("GetModelMetadata", request, timeout)
        found = messages.CLASSES["SignatureDefMap"].FromString(
            answer.metadata["signature_def"].value
        )
        signatures = {
            name: Signature(_infos(one.inputs), _infos(one.outputs))
            for name, one in found.signature_def.items()
            if name != "__saved_model_init_op"
        }
        return ServedModel(answer.model_spec.name, answer.model_spec.version.value, signatures)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _request(self, kind: str) -> Any:
        request = messages.CLASSES[kind]()
        request.model_spec.name = self._place.model
        if self._place.version is not None:
            request.model_spec.version.value = self._place.version
        return request

    def _call(self, method: str, request: Any, timeout: float) -> Any:
        try:
            return self._calls[method](request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                late = f"did not answer within {timeout:.3g} s"
                raise DeadlineExceeded(self._place, late) from error
            raise from_status(self._place, error.code().name, error.details() or "") from error

    def _dtype(self, signature: str, name: str, timeout: float) -> str:
        """Looks up the type of an input that is none of the contract's."""
        if signature not in self._dtypes:
            signatures = self.metadata(timeout).signatures
            if signature not in signatures:
                known = nearest(signature, signatures)
                raise ValueError(explain(f"There is no signature {signature!r}.", fix=known))
            inputs = signatures[signature].inputs
            self._dtypes[signature] = {key: info.dtype for key, info in inputs.items()}
        known = self._dtypes[signature]
        if name not in known:
            raise ValueError(
                explain(f"{signature!r} has no input {name!r}.", fix=nearest(name, known))
            )
        return known[name]


def _encoded(value: Any) -> Any:
    return [_encoded(one) for one in value] if isinstance(value, (list, tuple)) else as_bytes(value)


def _decoded(name: str, value: Any) -> Any:
    """Strings as text, unless the name says that they are bytes; numbers as they are."""
    if isinstance(value, list):
        return [_decoded(name, one) for one in value]
    if isinstance(value, bytes) and not name.endswith("_bytes"):
        return value.decode(errors="replace")
    return value


def _infos(entries: Mapping[str, Any]) -> dict[str, TensorInfo]:
    names = {number: name for name, (number, _, _) in messages.DTYPES.items()}
    return {
        name: TensorInfo(
            names.get(info.dtype, str(info.dtype)),
            tuple(dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in entries.items()
    }
