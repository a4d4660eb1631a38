"""A fake model that keeps the contract of the signatures, and a fake REST server of it.

A token is a byte. It does not import TensorFlow.
"""

import base64
import hashlib
import json

import httpx

from tfgpt2.serving import Client

SCRIPT = (
    "To be, or not to be: that is the question.\n\nNaïve — 日本語 and 👩‍🚀 fly.\n\nThe end".encode()
)


def repeat_column(column, rows):
    """One value for each row."""
    return column if len(column) == rows else column * rows


def generate(inputs):
    """Greedy rows continue the script after the length of the prompt; others draw hex digits."""
    rows = len(inputs["text"])
    inputs = {name: repeat_column(column, rows) for name, column in inputs.items()}
    texts, reasons, counts = [], [], []
    for row, prompt in enumerate(inputs["text"]):
        limit, stops = inputs["max_new_tokens"][row], [s for s in inputs["stop"][row] if s]
        rest = SCRIPT[len(prompt) :]
        if inputs["temperature"][row] > 0:
            seed = inputs["seed"][row]
            rest = b"".join(
                hashlib.sha256(f"{seed} {step}".encode()).hexdigest()[:1].encode()
                for step in range(limit)
            )
        text, reason, written = b"", "length", 0
        while written < limit:
            if written == len(rest):
                reason, written = "eos", written + 1
                break
            text, written = text + rest[written : written + 1], written + 1
            found = [text.find(stop) for stop in stops if stop in text]
            if found:
                text, reason = text[: min(found)], "stop"
                break
        texts.append(text), reasons.append(reason), counts.append(written)
    width = max([0, *counts])
    return {
        "text": [text.decode(errors="replace") for text in texts],
        "text_bytes": texts,
        "token_ids": [([*range(1, n + 1)] + [0] * width)[:width] for n in counts],
        "num_tokens": counts,
        "prompt_tokens": [len(prompt) for prompt in inputs["text"]],
        "truncated": [0] * rows,
        "logprob": [-0.5 * n for n in counts],
        "token_logprobs": [([-0.5] * n + [0.0] * width)[:width] for n in counts],
        "finish_reason": reasons,
    }


def tokenize(inputs):
    texts = inputs["text"]
    width = max([0, *map(len, texts)])
    ids = [[*text, *[0] * (width - len(text))] for text in texts]
    return {"ids": ids, "num_tokens": [len(text) for text in texts]}


def detokenize(inputs):
    texts = [bytes(one for one in row if 0 <= one < 256) for row in inputs["ids"]]
    return {"text": [text.decode(errors="replace") for text in texts], "text_bytes": texts}


def score(inputs):
    counts = [max(0, len(text) - 1) for text in inputs["text"]]
    width = max([0, *map(len, inputs["text"])])
    logprobs = [
        ([0.0] + [-1.0] * n + [0.0] * width)[:width] for n in counts
    ]  # the first follows nothing
    return {"logprob": [-1.0 * n for n in counts], "num_tokens": counts,
            "perplexity": [2.5] * len(counts), "token_logprobs": logprobs,
            "truncated": [0] * len(counts)}  # fmt: skip


SIGNATURES = {
    "generate": generate, "tokenize": tokenize, "detokenize": detokenize, "score": score,
    "serving_default": lambda inputs: generate(
        {"text": inputs["text"], "max_new_tokens": [5], "temperature": [0], "stop": [[""]]}
    ),
}  # fmt: skip


class FakeRestServer:
    """Answers httpx as TensorFlow Serving's REST interface does, and records the requests."""

    def __init__(self, *first):
        self.first, self.requests = list(first), []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.first:
            answer = self.first.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        body = json.loads(request.content)
        inputs = {name: from_json(value) for name, value in body["inputs"].items()}
        outputs = SIGNATURES[body["signature_name"]](inputs)
        outputs = {k: to_json(v) if k.endswith("_bytes") else v for k, v in outputs.items()}
        return httpx.Response(200, json={"outputs": outputs})

    def bodies(self):
        return [json.loads(request.content) for request in self.requests]


def from_json(value):
    if isinstance(value, list):
        return [from_json(one) for one in value]
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return value.encode() if isinstance(value, str) else value


def to_json(value):
    if isinstance(value, list):
        return [to_json(one) for one in value]
    return {"b64": base64.b64encode(value).decode()}


def make_client(rest, **options):
    """A client whose requests go to a function."""
    return Client("http://host:8501/", "m", transport=httpx.MockTransport(rest), **options)


def refusal(status, text="no", **headers):
    return httpx.Response(status, json={"error": text}, headers=headers)
