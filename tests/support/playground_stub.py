"""A server for the playground with canned responses."""

import asyncio
import base64
import hashlib
import json
import re
import threading
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import tfgpt2.serving

PAGE = Path(tfgpt2.serving.__file__).parent / "playground" / "index.html"
WORDS = (
    " that is the question.",
    " whether 'tis\nnobler",
    " <b>bold</b> & plain",
    " the end",
    " x",
)
MODEL = "shakespeare-tiny"


def policy(page):
    """Returns the strictest policy for the page: the hashes of its two inline blocks."""
    hashes = {
        tag: "'sha256-" + base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() + "'"
        for tag in ("script", "style")
        for block in re.findall(f"<{tag}>(.*?)</{tag}>", page, re.S)
    }
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']};"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def b64(raw):
    return {"b64": base64.b64encode(raw).decode()}


def inspect(text):
    """Returns outputs of `inspect`: tokens of one byte, with ranks of all colours."""
    raw = text.encode()
    ranks = [0] + [(3, 40, 500, 5000)[i % 4] for i in range(1, len(raw))]
    return {
        "token_bytes": [[b64(raw[i : i + 1]) for i in range(len(raw))]],
        "token_logprobs": [[0.0] + [-1.0] * (len(raw) - 1)],
        "ranks": [ranks],
        "top_bytes": [[[b64(b" e"), b64(b"\n"), b64(raw[i : i + 1])] for i in range(len(raw))]],
        "top_probabilities": [[[0.5, 0.25, 0.125]] * len(raw)],
        "num_tokens": [len(raw)],
    }


class StubServer:
    """Runs in a thread; `requests` are the received bodies, `answer` replaces a response.

    `stream_answer` replaces those to completions only.

    A stream sends the first half of its text, and the rest when `second_half` is set; `left` counts
    the streams whose client went before.
    """

    def __init__(self, port=0, signatures=("generate", "inspect")):
        self.requests, self.signatures, self.answer = [], signatures, None
        self.stream_answer = None
        self.loading = False
        self.second_half, self.left = threading.Event(), 0
        page = PAGE.read_text()

        async def index(request):
            headers = {"Content-Security-Policy": policy(page)}
            return Response(page, media_type="text/html", headers=headers)

        async def models(request):
            return JSONResponse({"object": "list", "data": [{"id": MODEL}, {"id": "other"}]})

        async def metadata(request):
            if self.loading:
                return JSONResponse({"error": "Servable not found"}, 404)
            names = {name: {} for name in self.signatures}
            return JSONResponse({"metadata": {"signature_def": {"signature_def": names}}})

        async def predict(request):
            body = json.loads(await request.body())
            self.requests.append(body)
            if self.answer is not None:
                return self.answer
            inputs = body["inputs"]
            if body["signature_name"] == "inspect":
                return JSONResponse({"outputs": inspect(inputs["text"][0])})
            rows = len(inputs["text"])
            return JSONResponse({"outputs": {
                "text": list(WORDS[:rows]), "logprob": [-4.0] * rows, "num_tokens": [4] * rows,
                "finish_reason": ["length"] * rows, "prompt_tokens": [2] * rows,
                "text_bytes": [b64(words.encode()) for words in WORDS[:rows]],
                "token_ids": [[1, 2, 3, 4]] * rows, "token_logprobs": [[-1.0] * 4] * rows,
                "truncated": [0] * rows}})  # fmt: skip

        async def complete(request):
            body = json.loads(await request.body())
            self.requests.append(body)
            answer = self.answer or self.stream_answer
            if answer is not None:
                return answer
            return StreamingResponse(
                self._events(WORDS[body["seed"] % len(WORDS)]), media_type="text/event-stream"
            )

        routes = [
            Route("/v1/completions", complete, methods=["POST"]),
            Route("/", index), Route("/v1/models", models),
            Route("/v1/models/{name}/metadata", metadata),
            Route("/v1/models/{name}:predict", predict, methods=["POST"]),
        ]  # fmt: skip
        config = uvicorn.Config(
            Starlette(routes=routes), port=port, log_level="error", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        limit = time.monotonic() + 20
        while not self._server.started and time.monotonic() < limit:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    async def _events(self, words):
        half = len(words) // 2
        try:
            for part in (words[:half], words[half:]):
                choice = {"index": 0, "text": part, "logprobs": {"token_logprobs": [-1.0, -1.0]}}
                yield f"data: {json.dumps({'choices': [choice]})}\n\n"
                while not self.second_half.is_set():
                    await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.left += 1
            raise
        yield "data: [DONE]\n\n"

    def stop(self):
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)
