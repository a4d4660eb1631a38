"""TensorFlow Serving's REST API: status, metadata, predict.

Source: tensorflow/serving model_servers/http_rest_api_util.cc for the paths and messages.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tfgpt2.serving.server import http
from tfgpt2.serving.server.json_request import parse_predict
from tfgpt2.serving.server.json_response import encode_response
from tfgpt2.serving.server.server_core import ModelSpec, ServerCore
from tfgpt2.serving.server.serving_error import ServingError, cut, invalid
from tfgpt2.serving.server.version_manager import NO_VERSIONS, VersionStatus
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
        body = await http.read_body(request)
        if method != "predict":
            raise ServingError(
                "UNIMPLEMENTED", f"{method} is for models of tf.Example. Use :predict instead."
            )
        with self._core.lease(spec) as servable:
            max_rows = self._core.settings.batching.max_batch_size
            predict = await http.parse_body(body, parse_predict, servable.signatures, max_rows)
            outputs = await http.run_until_disconnect(
                request, lambda: self._core.run(servable, predict.signature, predict.inputs)
            )
            content = encode_response(outputs, rows=predict.rows)
        return Response(content, media_type="application/json")

    def _metadata(self, spec: ModelSpec) -> Response:
        with self._core.lease(spec) as servable:
            return JSONResponse(
                {
                    "model_spec": {
                        "name": servable.name,
                        "signature_name": "",
                        "version": str(servable.version),
                    },
                    "metadata": {
                        "signature_def": {"signature_def": servable.describe_signatures()}
                    },
                }
            )

    def _status(self, spec: ModelSpec) -> Response:
        model = self._core.models.get(spec.name, NO_VERSIONS)
        version = spec.version
        if spec.label is not None:
            with model.lease(label=spec.label) as servable:
                version = servable.version
        states = list(map(_status_entry, model.statuses(version)))
        status = {"model_version_status": states}
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


def _status_entry(status: VersionStatus) -> dict[str, Any]:
    """A version as TensorFlow Serving's `ModelVersionStatus` is written in JSON."""
    return {
        "version": str(status.version),
        "state": status.state,
        "status": {"error_code": status.code, "error_message": status.message},
    }
