"""The REST interface of TensorFlow Serving, over httpx."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from tfgpt2.serving.client.exceptions import (
    BadAnswer,
    Endpoint,
    Unreachable,
    from_status,
    no_answer_within,
)
from tfgpt2.serving.client.records import ServedModel, Signature, TensorInfo, VersionStatus


class RestTransport:
    """JSON to and from a server.

    Args:
        endpoint: Server, model and version.
        api_key: Sent as `Authorization: Bearer`; None sends none.
        connections: Most connections at a time.
        transport: Transport of httpx; None is the network.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        api_key: str | None,
        connections: int,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._endpoint = endpoint
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.Client(headers=headers, limits=limits, transport=transport)
        path = f"{endpoint.url}/v1/models/{quote(endpoint.model, safe='')}"
        self._model = path if endpoint.version is None else f"{path}/versions/{endpoint.version}"

    def predict(
        self, signature: str, inputs: Mapping[str, list[Any]], timeout: float
    ) -> dict[str, list[Any]]:
        """Runs a signature: columns in, columns out."""
        body = {"signature_name": signature, "inputs": encode(inputs)}
        answer = self._send("POST", f"{self._model}:predict", timeout, json.dumps(body))
        outputs = answer.get("outputs") if isinstance(answer, dict) else None
        if isinstance(outputs, list):  # one output: the server leaves its name out
            names = self.metadata(timeout).signatures[signature].outputs
            outputs = {next(iter(names)): outputs}
        if not isinstance(outputs, dict):
            raise BadAnswer(self._endpoint, "gave an answer without 'outputs'")
        return {name: self._decode(name, value) for name, value in outputs.items()}

    def status(self, timeout: float) -> list[VersionStatus]:
        """Requests the state of each version."""
        answer = self._send("GET", self._model, timeout)
        try:
            return [
                VersionStatus(
                    int(one["version"]),
                    one["state"],
                    one["status"]["error_code"],
                    one["status"].get("error_message", ""),
                )
                for one in answer["model_version_status"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise BadAnswer(self._endpoint, "gave a model status of an unknown form") from error

    def metadata(self, timeout: float) -> ServedModel:
        """Requests the signatures."""
        answer = self._send("GET", f"{self._model}/metadata", timeout)
        try:
            spec, found = answer["model_spec"], answer["metadata"]["signature_def"]
            signatures = {
                name: Signature(
                    _tensor_infos(one.get("inputs", {})), _tensor_infos(one.get("outputs", {}))
                )
                for name, one in found["signature_def"].items()
            }
            return ServedModel(spec["name"], int(spec["version"]), signatures)
        except (KeyError, TypeError, ValueError) as error:
            raise BadAnswer(self._endpoint, "gave metadata of an unknown form") from error

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _send(self, method: str, url: str, timeout: float, body: str | None = None) -> Any:
        deadline = time.monotonic() + timeout
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = self._http.build_request(
            method, url, content=body, headers=headers, timeout=timeout
        )
        try:
            response = self._http.send(request, stream=True)
            try:
                content = self._read(response, deadline, timeout)
            finally:
                response.close()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(self._endpoint, f"cannot be reached: {_message(error)}") from error
        except httpx.TimeoutException as error:
            raise no_answer_within(self._endpoint, timeout) from error
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise Unreachable(self._endpoint, f"broke the connection: {_message(error)}") from error
        if response.status_code != 200:
            after = response.headers.get("Retry-After", "")
            raise from_status(
                self._endpoint,
                response.status_code,
                _detail(content),
                retry_after=float(after) if after.isdecimal() else None,
            )
        try:
            return json.loads(content)
        except ValueError as error:
            raise BadAnswer(self._endpoint, "gave an answer that is not JSON") from error

    def _read(self, response: httpx.Response, deadline: float, timeout: float) -> bytes:
        """Reads the body; httpx limits the time of each read, this that of all."""
        parts = []
        for part in response.iter_bytes():
            parts.append(part)
            if time.monotonic() > deadline:
                raise no_answer_within(self._endpoint, timeout)
        return b"".join(parts)

    def _decode(self, name: str, value: Any) -> Any:
        """Turns `{"b64": ...}` into bytes, at any depth."""
        if not name.endswith("_bytes"):
            return value
        if isinstance(value, list):
            return [self._decode(name, one) for one in value]
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise BadAnswer(
                self._endpoint, f"gave {name!r} in a form that is not base64"
            ) from error


def encode(value: Any) -> Any:
    """Encodes values for JSON: bytes that are not UTF-8 become `{"b64": ...}`.

    Example:
        >>> encode({"text": ["a", b"b", bytes([255])]})
        {'text': ['a', 'b', {'b64': '/w=='}]}
    """
    if isinstance(value, Mapping):
        return {name: encode(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(one) for one in value]
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    return value


def _tensor_infos(entries: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(
            info["dtype"],
            tuple(int(dim["size"]) for dim in info["tensor_shape"].get("dim", ())),
        )
        for name, info in entries.items()
    }


def _detail(content: bytes) -> str:
    """The server's message: `{"error": "..."}` in JSON, or the text of a proxy."""
    try:
        found = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        found = content.decode(errors="replace")
    if isinstance(found, dict):
        found = found.get("message", found)
    return str(found)


def _message(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
