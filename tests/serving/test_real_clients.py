"""Unmodified clients, in an environment of their own: `make test-clients` makes it.

`TFGPT2_CLIENTS_PYTHON` names its Python; without it these tests skip.
"""

import json
import os
import subprocess

import httpx
import pytest

from tests.support import real_clients
from tests.support.server_requests import MODEL, column_request, predict
from tfgpt2 import hub

PYTHON = os.environ.get("TFGPT2_CLIENTS_PYTHON")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON, reason="TFGPT2_CLIENTS_PYTHON is not set"),
]
PROMPT, TOKENS = "ROMEO:\n", 24
REQUESTS = {
    "loglikelihood": [
        ["ROMEO:\nI am", " a man"], ["To be, or", " not to be"], ["", "Now is the winter"],
        ["JULIET:\n", "zz qq xx"], ["KING:\nWhat", " is"], ["O Romeo, Romeo,", " wherefore"],
    ],
    "loglikelihood_rolling": [
        ["To be, or not to be, that is the question."], ["KING:\nWhat is the matter?\n\n" * 60],
    ],
    "generate_until": [["ROMEO:\n", {"until": ["\n\n"], "max_gen_toks": 40}],
                       ["HAMLET:\n", {"until": ["."], "max_gen_toks": 40}]],
}  # fmt: skip


@pytest.fixture
def ask(served):
    def ask(client, **fields):
        document = {"client": client, "url": served.url, "model": MODEL} | fields
        done = subprocess.run(
            [PYTHON, real_clients.__file__], input=json.dumps(document), text=True,
            capture_output=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return ask


def test_lm_eval_gets_what_it_gets_from_the_checkpoint(ask, figure):
    checkpoint = hub.ASSETS / MODEL
    answers = ask("lm_eval", checkpoint=str(checkpoint), requests=REQUESTS)
    served, local = answers["loglikelihood"]
    assert [greedy for _, greedy in served] == [greedy for _, greedy in local]
    assert [value for value, _ in served] == pytest.approx([v for v, _ in local], abs=1e-4)
    worst = max(abs(one - two) for (one, _), (two, _) in zip(served, local, strict=True))
    figure("nats: lm_eval, served and local, log-likelihood", worst)
    served, local = answers["loglikelihood_rolling"]
    assert served == pytest.approx(local, rel=1e-5)
    served, local = answers["generate_until"]
    assert served == local


@pytest.mark.parametrize("client", ["openai", "langchain", "litellm", "llm"])
def test_clients_get_the_text(ask, served, client):
    with httpx.Client(base_url=served.url, timeout=120) as http:
        expected = predict(http, column_request(PROMPT, max_new_tokens=TOKENS))["text"][0]
    options = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    found = ask(client, options=options)
    assert [text for text in found if isinstance(text, str)] == [expected] * len(found[:2])
    assert found[2:] in ([], [[MODEL]])


def test_guidellm_counts_a_minute_of_load(ask):
    answers = ask("guidellm", checkpoint=str(hub.ASSETS / MODEL), seconds=60)
    for totals, least, most in answers:
        assert totals["errored"] == 0 and totals["successful"] > 20
        assert (least, most) == (24, 24)
