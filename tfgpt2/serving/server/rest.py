"""REST as TensorFlow Serving speaks it: status, metadata, predict.

Source: tensorflow/serving model_servers/http_rest_api_util.cc for the paths and messages.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from google.protobuf import json_format
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from tensorflow_serving.apis import get_model_metadata_pb2

from tfgpt2.serving.server import json_tensors
from tfgpt2.serving.server.grpc_api import metadata_response, status_response
from tfgpt2.serving.server.models import Model
from tfgpt2.serving.server.saved_model import find
from tfgpt2.serving.server.service import Service, Target
from tfgpt2.serving.server.status import ServingError, from_exception, invalid

_WHICH = r"(?i)/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_PREDICT = re.compile(_WHICH + r":(classify|regress|predict)")
_STATUS = re.compile(_WHICH + r"(?:/(metadata))?")
_INLINE = 65536  # bytes of JSON that are parsed at once; more goes to a thread


class Rest:
    """The handlers of `/v1/models/...`.

    Args:
        service: What they ask.
    """

    def __init__(self, service: Service):
        self._service = service

    async def handle(self, request: Request) -> Response:
        """Answers requests under `/v1/`, in any case; errors are `{"error": "..."}`."""
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
            target = _target(*match.groups()[:3])
            with self._service.counted("rest", target.name):
                return await self._predict(request, target, match[4].lower())
        if request.method in ("GET", "HEAD") and (match := _STATUS.fullmatch(path)):
            return self._tell(_target(*match.groups()[:3]), match[4])
        raise invalid(f"Malformed request: {request.method} {path}")

    async def _predict(self, request: Request, target: Target, method: str) -> Response:
        body = await request.body()
        if method != "predict":
            raise ServingError(
                "UNIMPLEMENTED", f"{method} is for models of tf.Example. Use :predict instead."
            )
        with self._service.lease(target) as servable:
            asked = await in_thread_if_large(
                body, json_tensors.parse_predict, lambda name: find(servable.signatures, name)
            )
            outputs = await unless_disconnected(
                request, self._service.run(servable, asked.signature, asked.inputs)
            )
            content = json_tensors.answer(outputs, rows=asked.rows)
        return Response(content, media_type="application/json")

    def _tell(self, target: Target, resource: str | None) -> Response:
        if resource:
            with self._service.lease(target) as servable:
                return JSONResponse(_metadata(metadata_response(servable)))
        missing = "Could not find any versions of model {name}"
        model = self._service.models.get(target.name, missing)
        version = target.version
        if target.label is not None:
            with model.lease(label=target.label) as servable:
                version = servable.version
        states = _plain(status_response(model.statuses(version)))
        # One path, two contracts: OpenAI's clients look for these fields, and the real server's
        # clients for `model_version_status`. A path with a version is the real server's alone.
        return JSONResponse(states if version is not None else model_entry(model) | states)


def model_entry(model: Model) -> dict[str, Any]:
    """A model as OpenAI's API lists it."""
    return {"id": model.name, "object": "model", "created": model.since, "owned_by": "tfgpt2"}


def error_response(error: ServingError) -> Response:
    """An error as the real server writes it."""
    return JSONResponse({"error": error.message}, error.http, headers=retry_headers(error))


def retry_headers(error: ServingError) -> dict[str, str]:
    """What tells a client when to come again, or how to show who it is."""
    if error.code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE") and error.http in (429, 503):
        return {"Retry-After": "1"}
    return {"WWW-Authenticate": "Bearer"} if error.code == "UNAUTHENTICATED" else {}


async def in_thread_if_large(body: bytes, parse: Callable[..., Any], *arguments: Any) -> Any:
    """Parses a body, in a thread if it would hold the event loop up."""
    if len(body) <= _INLINE:
        return parse(body, *arguments)
    return await asyncio.to_thread(parse, body, *arguments)


async def unless_disconnected(request: Request, work: Awaitable[Any]) -> Any:
    """Waits for an answer, and gives it up when its client leaves.

    Args:
        request: Whose body was read.
        work: What to wait for; it is cancelled when the client leaves.

    Raises:
        ServingError: CANCELLED, which nobody reads; or what the work raised.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServingError("CANCELLED", "The client closed the connection.")
        return task.result()
    except ServingError:
        raise
    except Exception as error:
        raise from_exception(error) from error
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _target(name: str, version: str | None, label: str | None) -> Target:
    number = int(version) if version else None
    if number is not None and number >= 2**63:
        raise invalid(f"Failed to convert version: {version} to numeric.")
    return Target(unquote(name), number, unquote(label) if label else None)


def _metadata(response: Any) -> dict[str, Any]:
    """The message as the real server prints it: the packed map is unpacked."""
    packed = response.metadata["signature_def"]
    signatures = get_model_metadata_pb2.SignatureDefMap()
    packed.Unpack(signatures)
    return {
        "model_spec": _plain(response.model_spec)
        | {"version": str(response.model_spec.version.value)},
        "metadata": {"signature_def": _plain(signatures)},
    }


def _plain(message: Any) -> dict[str, Any]:
    """A message as JSON, fields that are zero included."""
    return json.loads(
        json_format.MessageToJson(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    )
