"""LiteRT-LM's own tools, in an environment of their own: `make test-litertlm` makes it.

`TFGPT2_LITERTLM_PYTHON` names its Python; without it these tests skip.
"""

import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

import tfgpt2
from tests.support import toy_text

PYTHON = os.environ.get("TFGPT2_LITERTLM_PYTHON")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON, reason="TFGPT2_LITERTLM_PYTHON is not set"),
]
CONTEXT = 96
QUESTION = "KING:\nWhat is the matter?\n\n"
PROMPTS = ["ROMEO:", " é 你好 😀\n\n", "a<|endoftext|>b", QUESTION * 7]
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def live():
    """The bundled model, with a chat template."""
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny", chat_template=TEMPLATE)
    model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
    config = tfgpt2.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    return tfgpt2.TextGenerator(model, tokenizer, config, jit_compile=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where the tools keep their models."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def path(live, home):
    path = home / "bard.litertlm"
    report = live.export_litertlm(path, context=CONTEXT, prompt_buckets=[16])
    assert report.difference < 1e-3
    return path


@pytest.fixture(scope="module")
def litert_lm(home):
    """Runs the tool and returns what it printed."""

    def run(*arguments):
        command = [str(Path(PYTHON).with_name("litert-lm")), *map(str, arguments)]
        done = subprocess.run(
            command, env=os.environ | {"HOME": str(home)}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def expected(live, prompt, **options):
    """Greedy text to the end of the context that was exported."""
    most = CONTEXT - live.tokenizer.tokenize(prompt).shape[0]
    return live.generate(prompt, temperature=0, **({"max_new_tokens": most} | options))


def test_describe(litert_lm, path):
    found = litert_lm("describe", path)
    for line in ("Max Context Tokens: +96", "Sampler Top K: +1", "Text Backends: +CPU GPU"):
        assert re.search(line, found)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: repr(prompt[:9]))
def test_run_writes_the_greedy_text(litert_lm, live, path, prompt):
    options = ["--prompt", prompt, "--no-template", "--cache", "no"]
    assert litert_lm("run", path, *options) == expected(live, prompt) + "\n"


def test_run_applies_the_chat_template(litert_lm, live, path):
    text = expected(live, "user: ROMEO:<|endoftext|>")
    assert litert_lm("run", path, "--prompt", "ROMEO:", "--cache", "no") == text + "\n"


def test_benchmark(litert_lm, path):
    sizes = ["--prefill-tokens", "32", "--decode-tokens", "16", "--cache", "no"]
    found = litert_lm("benchmark", path, *sizes)
    speeds = re.findall(r"(?:Prefill|Decode) speed: +([0-9.]+) tokens/s", found)
    assert len(speeds) == 2 and min(map(float, speeds)) > 0


def test_unpack_and_pack(litert_lm, path, tmp_path):
    litert_lm("unpack", path, "--output-dir", tmp_path / "parts")
    litert_lm("pack", tmp_path / "parts", "--output", tmp_path / "again.litertlm")
    run = ["--prompt", "KING", "--cache", "no", "--max-num-tokens", "30"]
    assert litert_lm("run", tmp_path / "again.litertlm", *run) == litert_lm("run", path, *run)


@pytest.fixture
def server(litert_lm, home, path):
    litert_lm("import", path, "bard")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [str(Path(PYTHON).with_name("litert-lm")), "serve", "--port", str(port)]
    environment = os.environ | {"HOME": str(home)}
    log = (home / "server.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            for _ in range(100):
                try:
                    client.get("/v1/models")
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield client
    finally:
        process.terminate()
        process.wait(30)


def test_serve_answers_openai_requests(server, live):
    messages = [
        {"role": "user", "content": "KING:\n"},
        {"role": "assistant", "content": "My lord,"},
        {"role": "user", "content": [{"type": "text", "text": "What?\n"}]},
    ]
    prompt = "user: KING:\n<|endoftext|>assistant: My lord,<|endoftext|>user: What?\n<|endoftext|>"
    text = expected(live, prompt, max_new_tokens=12)
    body = {"model": "bard", "messages": messages, "max_completion_tokens": 12}
    answer = server.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"] == text
    assert answer["usage"]["completion_tokens"] == 12
    stream = server.post("/v1/chat/completions", json=body | {"stream": True}).text
    events = [
        line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data")
    ]
    pieces = [json.loads(event)["choices"][0]["delta"].get("content") for event in events[:-1]]
    assert events[-1] == "[DONE]" and "".join(filter(None, pieces)) == text


def test_bytes_that_are_no_characters_and_a_start_token(litert_lm, home):
    """A random model writes halves of characters; its texts begin with a token."""
    tokens = toy_text.tokenizer(add_bos_token=True)
    live = tfgpt2.TextGenerator(toy_text.model(tokens), tokens, jit_compile=False)
    path = home / "toy.litertlm"
    live.export_litertlm(path, prompt_buckets=[16], quantize=None)
    for prompt in ("the 😀", "é"):
        text = live.generate(prompt, temperature=0, max_new_tokens=toy_text.CONTEXT)
        assert "\ufffd" in text
        assert litert_lm("run", path, "--prompt", prompt, "--cache", "no") == text + "\n"


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_small_matrices(litert_lm, live, home, quantize):
    """The runtime computes with the same matrices; the first tokens are those of float32."""
    path = home / f"{quantize}.litertlm"
    live.export_litertlm(path, context=CONTEXT, prompt_buckets=[16], quantize=quantize)
    assert re.search("Text Backends: +CPU\n", litert_lm("describe", path))
    run = ["--prompt", "ROMEO:\n", "--no-template", "--cache", "no", "--max-num-tokens", "30"]
    text = litert_lm("run", path, *run)
    assert text.startswith(expected(live, "ROMEO:\n", max_new_tokens=12))
