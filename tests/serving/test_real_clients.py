"""Unmodified clients, in an environment of their own: `make test-clients` makes it.

`TFGPT2_CLIENTS_PYTHON` names its Python; without it these tests skip.
"""

import json
import os
import subprocess

import httpx
import pytest

import tfgpt2
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
QUESTIONS = [
    {"query": "My good", "choices": ["lord", "xylophone", "elephants"], "gold": 0},
    {"query": "What news with", "choices": ["you?", "my gracious lord of Gloucester?"], "gold": 1},
    {"query": "To be, or not to", "choices": ["be", "bee", "see the king"], "gold": 0},
]


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
    """From the server, from PyTorch, and from the adapter of this package."""
    checkpoint = hub.ASSETS / MODEL
    answers = ask("lm_eval", checkpoint=str(checkpoint), requests=REQUESTS, questions=QUESTIONS)
    served, values = answers["served"], scored(answers["served"])
    for name in ("hf", "adapter"):
        local = answers[name]
        assert served["generate_until"] == local["generate_until"]
        for accuracy in ("acc", "acc_norm"):
            assert served["multiple_choice"][accuracy] == local["multiple_choice"][accuracy]
        for kind, expected in scored(local).items():
            assert [greedy for _, greedy in values[kind]] == [greedy for _, greedy in expected]
            pairs = zip(values[kind], expected, strict=True)
            worst = max(abs(one - two) for (one, _), (two, _) in pairs)
            figure(f"nats: lm_eval, served and {name}: {kind}", worst)
            assert worst < 1e-4, (name, kind)


def scored(answers):
    """The log-likelihoods of each kind of requests, and whether they were greedy."""
    return {
        "loglikelihood": answers["loglikelihood"],
        "loglikelihood_rolling": [(value, None) for value in answers["loglikelihood_rolling"]],
        "multiple_choice": answers["multiple_choice"]["answers"],
    }


def test_lm_eval_tokenizes_with_the_server(ask):
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained(MODEL)
    assert ask("remote_tokenizer", text=PROMPT) == {
        "supported": True, "ids": tokenizer.tokenize(PROMPT).numpy().tolist(), "text": PROMPT,
        "end": tokenizer.eos_token_id, "chat": f"user: {PROMPT}\nassistant:",
    }  # fmt: skip


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
