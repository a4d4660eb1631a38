"""`/tokenize`, `/detokenize` and `/tokenizer_info`, as other servers have them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tfgpt2.serving.server import completion_request, http
from tfgpt2.serving.server.chat_request import PLAIN_TEMPLATE, templates_in_use
from tfgpt2.serving.server.json_request import parse_json
from tfgpt2.serving.server.openai_errors import error_response
from tfgpt2.serving.server.server_core import ModelSpec, ServerCore
from tfgpt2.serving.server.serving_error import ServingError, cut, invalid
from tfgpt2.serving.server.settings import NO_CHAT
from tfgpt2.serving.server.text_model import TextModel

_Call = Callable[[TextModel, Any], Awaitable[dict[str, Any]]]
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


class TokenizerApi:
    """Handlers of the tokenizer's paths.

    Args:
        core: Runs the requests.
    """

    def __init__(self, core: ServerCore):
        self._core = core

    async def tokenize(self, request: Request) -> Response:
        """Token ids of the text `prompt`."""
        return await self._answer(request, "tokenize", "prompt", _tokenize)

    async def detokenize(self, request: Request) -> Response:
        """Text of the ids `tokens`; special tokens give none."""
        return await self._answer(request, "detokenize", "tokens", _detokenize)

    async def info(self, request: Request) -> Response:
        """The special tokens by role, and the template that chats use; what is not there is null.

        Clients that tokenize with this server ask for it first.
        """
        try:
            name, setting = (
                self._model_name(request.query_params),
                self._core.settings.chat_template,
            )
            with self._core.lease(ModelSpec(name)) as servable:
                special_tokens, own = servable.special_tokens, servable.chat_templates
            templates = {} if setting == NO_CHAT else templates_in_use(setting, own)
            plain = None if setting == NO_CHAT or templates else PLAIN_TEMPLATE
            content = dict.fromkeys(_SPECIAL) | special_tokens
            return JSONResponse(content | {"chat_template": templates.get("default", plain)})
        except ServingError as error:
            return error_response(error)

    async def _answer(self, request: Request, signature: str, field: str, call: _Call) -> Response:
        try:
            document = await http.parse_body(await http.read_body(request), parse_json)
            if field not in document:
                raise invalid(f"You must provide a {field} parameter.", param=field)
            name = self._model_name(document)
            with self._core.measure(signature, name), self._core.lease(ModelSpec(name)) as servable:
                model = self._core.text_model(servable)
                model.require(signature, "model")
                value = document[field]
                content = await http.run_until_disconnect(request, lambda: call(model, value))
            return JSONResponse(content)
        except ServingError as error:
            return error_response(error)

    def _model_name(self, document: Mapping[str, Any]) -> str:
        """The model that a request names; it may leave it out where there is one."""
        names = [model.name for model in self._core.models]
        name = document.get("model") or (names[0] if len(names) == 1 else None)
        if not isinstance(name, str):
            raise invalid("You must provide a model parameter.", param="model")
        if name not in names:
            message = f"The model `{cut(name)}` does not exist."
            raise ServingError("NOT_FOUND", message, param="model")
        return name


async def _tokenize(model: TextModel, prompt: Any) -> dict[str, Any]:
    ids = await model.tokenize(completion_request.parse_text(prompt, "prompt").encode())
    return {"tokens": ids, "count": len(ids)}


async def _detokenize(model: TextModel, tokens: Any) -> dict[str, Any]:
    ids = completion_request.parse_ids(tokens, "tokens")
    text = await model.detokenize(np.array(ids, np.int32)) if ids else b""
    return {"prompt": text.decode("utf-8", "replace")}
