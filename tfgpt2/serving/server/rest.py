"""TensorFlow Serving's REST API: status, metadata, predict.

Source: tensorflow/serving model_servers/http_rest_api_util.cc for the paths and messages.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from google.protobuf import json_format
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from tensorflow_serving.apis import get_model_metadata_pb2

from tfgpt2.serving.server import http
from tfgpt2.serving.server.json_request import parse_predict
from tfgpt2.serving.server.json_response import encode_response
from tfgpt2.serving.server.responses import NO_VERSIONS, metadata_response, status_response
from tfgpt2.serving.server.server_core import ModelSpec, ServerCore
from tfgpt2.serving.server.serving_error import ServingError, cut, invalid
from tfgpt2.serving.version_number import parse_version

_MODEL = r"(?i)/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_PREDICT = re.compile(_MODEL + r":(classify|regress|predict)")
_STATUS = re.compile(_MODEL + r"(?:/(metadata))?")


class RestApi:
    """Handlers of `/v1/models/...`.

    Args:
        core: Runs the requests.
    """

    def __init__(self, core: ServerCore):
        self._core = core

    async def handle(self, request: Request) -> Response:
        """Answers requests under `/v1/`, in upper or lower case; errors are `{"error": "..."}`."""
        try:
            return await self._route(request)
        except ServingError as error:
            return error_response(error)

    async def _route(self, request: Request) -> Response:
        path = request.scope.get("raw_path", b"").split(b"?")[0].decode("latin-1")
        path = path or request.url.path
        if not path.lower().startswith("/v1/"):
            raise ServingError("NOT_FOUND", "Not Found")
        if request.method == "POST" and (match := _PREDICT.fullmatch(path)):
            spec = _model_spec(*match.groups()[:3])
            with self._core.measure("rest", spec.name):
                return await self._predict(request, spec, match[4].lower())
        if request.method in ("GET", "HEAD") and (match := _STATUS.fullmatch(path)):
            spec = _model_spec(*match.groups()[:3])
            return self._metadata(spec) if match[4] else self._status(spec)
        raise invalid(f"Malformed request: {cut(request.method)} {cut(path)}")

    async def _predict(self, request: Request, spec: ModelSpec, method: str) -> Response:
        body = await request.body()
        if method != "predict":
            raise ServingError(
                "UNIMPLEMENTED", f"{method} is for models of tf.Example. Use :predict instead."
            )
        with self._core.lease(spec) as servable:
            max_rows = self._core.settings.batching.max_batch_size
            predict = await http.parse_body(body, parse_predict, servable.signatures, max_rows)
            outputs = await http.run_until_disconnect(
                request, self._core.run(servable, predict.signature, predict.inputs)
            )
            content = encode_response(outputs, rows=predict.rows)
        return Response(content, media_type="application/json")

    def _metadata(self, spec: ModelSpec) -> Response:
        with self._core.lease(spec) as servable:
            return JSONResponse(_metadata_json(metadata_response(servable)))

    def _status(self, spec: ModelSpec) -> Response:
        model = self._core.models.get(spec.name, NO_VERSIONS)
        version = spec.version
        if spec.label is not None:
            with model.lease(label=spec.label) as servable:
                version = servable.version
        status = _to_json(status_response(model.statuses(version)))
        # Two APIs share this path: OpenAI's clients read the fields of the entry, TensorFlow
        # Serving's clients `model_version_status`. A path with a version is only the latter's.
        return JSONResponse(status if version is not None else http.model_entry(model) | status)


def error_response(error: ServingError) -> Response:
    """Returns an error in TensorFlow Serving's format."""
    return JSONResponse({"error": error.message}, error.http, headers=http.error_headers(error))


def _model_spec(name: str, version: str | None, label: str | None) -> ModelSpec:
    number = parse_version(version) if version else None
    if version and number is None:
        raise invalid(f"Failed to convert version: {cut(version)} to numeric.")
    return ModelSpec(unquote(name), number, unquote(label) if label else None)


def _metadata_json(response: Any) -> dict[str, Any]:
    """Converts the message as TensorFlow Serving does: the packed map is unpacked."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    spec = _to_json(response.model_spec) | {"version": str(response.model_spec.version.value)}
    return {"model_spec": spec, "metadata": {"signature_def": _to_json(signatures)}}


def _to_json(message: Any) -> dict[str, Any]:
    """Converts a message to JSON, fields that are zero included."""
    return json.loads(
        json_format.MessageToJson(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    )
