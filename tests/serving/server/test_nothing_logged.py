"""The log of a server holds no text of a request."""

import json

import httpx

from tests.support.server_requests import MODEL, column_request

SECRET = "xyzzySesame"


def test_texts_of_requests_are_not_logged(served):
    predict = f"/v1/models/{MODEL}:predict"
    complete = {"model": MODEL, "prompt": SECRET, "max_tokens": 2}
    bodies = [
        (predict, column_request(SECRET)),
        (predict, column_request(SECRET, temperature="hot")),  # refused
        (predict, {"signature_name": "generate", "inputs": {"text": [SECRET]}}),
        (predict, {"signature_name": SECRET, "inputs": [SECRET]}),
        ("/v1/completions", complete),
        ("/v1/completions", complete | {"stop": SECRET, "logprobs": 1, "echo": True}),
        ("/v1/completions", complete | {"model": SECRET}),
        ("/v1/completions", complete | {"n": 0}),
        ("/tokenize", {"prompt": SECRET}),
    ]
    answers = []
    with httpx.Client(base_url=served.url, timeout=120) as http:
        for path, body in bodies:
            answers.append(http.post(path, content=json.dumps(body)).status_code)
        with http.stream("POST", "/v1/completions", json=complete | {"stream": True}) as stream:
            answers.append(stream.status_code)
            stream.read()
        answers.append(http.post(predict, content=f'{{"inputs": "{SECRET}').status_code)
    assert {200, 400, 404} == set(answers), answers
    assert SECRET not in "".join(served.lines + served.log)
