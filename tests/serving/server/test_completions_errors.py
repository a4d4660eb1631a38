"""`/v1/completions` with exports that lack what it needs."""

import httpx
import pytest

from tests.support import toy_text
from tfgpt2 import GenerationConfig

pytestmark = pytest.mark.long

EXPORTS = {
    "beams": ({"num_beams": 2}, ("generate", "tokenize", "detokenize")),
    "several": ({"num_return_sequences": 2, "do_sample": True}, ("generate",)),
    "alone": ({}, ("generate",)),
    "scores": ({}, ("score",)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("lacking")
    for name, (settings, signatures) in EXPORTS.items():
        config = GenerationConfig(max_new_tokens=4, **settings)
        generator = toy_text.generator(generation_config=config, jit_compile=False)
        generator.export(
            base / name / "1", jit_compile=False, check=False, signatures=[*signatures]
        )
    return base


@pytest.mark.parametrize(
    ("name", "asked", "param", "words"),
    [
        ("beams", {"stream": True}, "stream", "Beam search cannot be streamed"),
        ("several", {}, "model", "several texts for each prompt"),
        ("alone", {"stream": True}, "stream", "`stream` needs the signature `tokenize`"),
        ("alone", {"logprobs": 1}, "logprobs", "`logprobs` needs the signature `inspect_ids`"),
        ("scores", {}, "model", "`model` needs the signature `generate`"),
    ],
)
def test_errors_name_what_the_export_lacks(folders, start_server, name, asked, param, words):
    server = start_server(folders / name)
    body = {"model": name, "prompt": "the", "max_tokens": 3} | asked
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
    error = answer.json()["error"]
    assert answer.status_code == 400 and words in error["message"]
    assert error["param"] == param


def test_other_requests_of_these_exports_succeed(folders, start_server):

    for name in ("beams", "alone"):
        server = start_server(folders / name)
        body = {"model": name, "prompt": "the", "max_tokens": 3}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120).json()
        assert answer["usage"]["completion_tokens"] == 3
