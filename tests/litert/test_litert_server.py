"""A LiteRT export behind the server: the texts of `LiteRTGenerator`, and one error for the rest."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.support.asgi import send_request
from tfgpt2.serving.server import registry
from tfgpt2.serving.server.app import make_app
from tfgpt2.serving.server.litert_engine import LiteRTEngine
from tfgpt2.serving.server.litert_model import LiteRTModel
from tfgpt2.serving.server.responses import metadata_response
from tfgpt2.serving.server.server_core import ServerCore
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.settings import ServerSettings

SAMPLED = {"temperature": 0.9, "top_k": 0, "top_p": 0.9, "seed": 5}


def ask(folder, *requests, **settings):
    """Answers of a server in this process: path and body, or a path alone, one after the other."""

    async def main():
        core = ServerCore(ServerSettings(models={"toy": folder}, **settings))
        await core.models.start()
        app, answers = make_app(core), []
        for path, *body in requests:
            method = "POST" if body else "GET"
            data = json.dumps(body[0]).encode() if body else b""
            answers.append(await send_request(app, method, path.encode(), data))
        await core.close()
        return answers

    return asyncio.run(asyncio.wait_for(main(), 120))


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def complete(prompt="the her", **options):
    return "/v1/completions", {"model": "toy", "prompt": prompt, "max_tokens": 20, **options}


def events(answer):
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line)["choices"][0] for line in lines]


def test_completions_and_streams_are_the_texts_of_the_generator(exported, loaded):
    text = loaded.generate("the her", max_new_tokens=20, details=True, **SAMPLED)
    ids = loaded.tokenize("the her")
    whole, by_ids, stream, echo, greedy = ask(
        exported[0],
        complete(logprobs=0, **SAMPLED),
        complete(ids, **SAMPLED),
        complete(stream=True, logprobs=0, **SAMPLED),
        complete(echo=True, **SAMPLED),
        complete(temperature=0, stop=[text.text[:2]], top_p=0.5),
    )
    choice = whole.json()["choices"][0]
    assert choice["text"] == by_ids.json()["choices"][0]["text"] == text.text
    assert choice["finish_reason"] == "length"
    assert whole.json()["usage"]["prompt_tokens"] == len(ids) == text.prompt_tokens
    np.testing.assert_allclose(choice["logprobs"]["token_logprobs"], text.token_logprobs, atol=1e-4)
    chunks = events(stream)
    assert len(chunks) <= 3  # a busy reader finds two rounds at once
    assert "".join(one["text"] for one in chunks) == text.text
    parts = [logprob for one in chunks for logprob in one["logprobs"]["token_logprobs"]]
    np.testing.assert_allclose(parts, text.token_logprobs, atol=1e-4)
    assert echo.json()["choices"][0]["text"] == "the her" + text.text
    expected = loaded.generate("the her", max_new_tokens=20, temperature=0, stop=text.text[:2])
    assert greedy.json()["choices"][0]["text"] == expected


def test_other_paths(exported, loaded):
    folder = exported[0]
    status, metadata, score, pieces, words, predicted, chat = ask(
        folder,
        ("/v1/models/toy",),
        ("/v1/models/toy/metadata",),
        ("/v1/models/toy:predict", {"signature_name": "score", "inputs": ["the her", "é"]}),
        ("/tokenize", {"prompt": "the é"}),
        ("/detokenize", {"tokens": loaded.tokenize("the é")}),
        ("/v1/models/toy:predict", {"inputs": ["the", ""]}),
        ("/v1/chat/completions", {"model": "toy", "max_tokens": 3,
                                  "messages": [{"role": "user", "content": "a"}]}),
    )  # fmt: skip
    assert status.json()["model_version_status"][0]["state"] == "AVAILABLE"
    signatures = metadata.json()["metadata"]["signature_def"]["signature_def"]
    assert {"generate", "score", "engine_start"} <= signatures.keys()  # for the playground
    assert signatures["generate"]["inputs"]["top_p"]["dtype"] == "DT_FLOAT"
    outputs = score.json()["outputs"]
    expected = [one.logprob for one in loaded.score(["the her", "é"])]
    np.testing.assert_allclose(outputs["logprob"], expected, rtol=1e-5)
    assert pieces.json()["tokens"] == loaded.tokenize("the é")
    assert words.json()["prompt"] == "the é"
    assert predicted.json()["outputs"]["finish_reason"] == ["length", "length"]
    assert chat.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (complete("x" * 100), 400, "leaves no room in the model's context"),
        (complete([1, 10**6]), 400, "a token that the model does not have"),
        (complete(logprobs=2), 400, "needs the signature `inspect_ids`"),
        (complete(presence_penalty=1), 400, "is not an input of this model's export"),
        (("/v1/models/toy:predict", {"signature_name": "embed", "inputs": ["a"]}), 400,
         "not found in signature def. The model has: detokenize, "),
        (("/v1/models/toy:predict",
          {"signature_name": "engine_start", "inputs": {"text": ["a"]}}), 400, "Missing named"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_it_cannot_do_is_one_clear_error(exported, request_, status, text):
    (answer,) = ask(exported[0], request_)
    assert answer.status_code == status and text in json.dumps(answer.json())


def test_without_the_engine_a_version_is_refused(exported):
    states = ask(exported[0], ("/v1/models/toy",), engine=False)[0].json()["model_version_status"]
    assert states[0]["state"] == "END" and "--no-engine" in states[0]["status"]["error_message"]


def inputs(engine_model, text, **values):
    signature = engine_model.signatures["engine_start"]
    given = {name: np.array([value]) for name, value in values.items()}
    return signature.defaults | {"text": np.array([text.encode()], object)} | given


def test_rows_of_the_engine_do_not_disturb_each_other(exported, loaded):
    """Two rows together and a third that comes later; a row that leaves gives its cache back."""
    model = LiteRTModel("toy", 1, exported[0], [4])
    engine = model.make_engine()
    settings = {"max_new_tokens": 30, "temperature": 1.0, "top_k": 0}
    rows = [inputs(model, text, seed=i, **settings) for i, text in enumerate(["the", "a", "é 😀"])]
    texts = [
        loaded.generate(one["text"][0], seed=i, details=True, **settings).token_ids
        for i, one in enumerate(rows)
    ]
    first, started = engine.start(model.signatures["engine_start"], rows[:2], 2)
    assert [one.prompt_tokens for one in started] == [len(loaded.tokenize(t)) for t in ("the", "a")]
    engine.join([(first, 2)], [], 4)
    found = engine.advance([True, True, False, False], 8)
    assert found["num_tokens"].tolist() == [8, 8, 0, 0]
    later, _ = engine.start(model.signatures["engine_start"], rows[2:], 1)
    engine.join([(later, 1)], [1], 4)  # the first has left
    for _ in range(4):
        found = engine.advance([True, True, False, False], 8)
    assert found["finish_reason"].tolist()[:2] == [b"length", b"length"]
    for slot, row in enumerate((1, 2)):
        assert found["token_ids"][slot, : found["num_tokens"][slot]].tolist() == texts[row]
    idle = model._generator._engine._loaded.idle
    assert sum(map(len, idle.values())) >= 2  # both groups have ended, and nobody has closed them
    engine.clear()


def test_values_out_of_range_are_clamped_and_prompts_refused(exported):
    model = LiteRTModel("toy", 1, exported[0], [2])
    engine = model.make_engine()
    wild = {
        "temperature": np.float32(np.nan),
        "top_p": np.float32(7),
        "min_p": np.float32(-1),
        "top_k": np.int32(-4),
        "repetition_penalty": np.float32(0),
        "max_new_tokens": 3,
    }
    rows = [inputs(model, "the", **wild), inputs(model, "x" * 100)]
    state, started = engine.start(model.signatures["engine_start"], rows, 2)
    engine.join([(state, 2)], [], 2)
    found = engine.advance([True, True], 8)
    assert found["num_tokens"].tolist() == [3, 0]
    assert found["finish_reason"].tolist() == [b"length", b"prompt_too_long"]
    assert [one.truncated for one in started] == [0, 0]


def test_texts_are_scored_one_after_the_other(exported):
    """Each has a cache of the whole context: many at a time would fill the memory."""
    model = LiteRTModel("toy", 1, exported[0], [2])
    running, most, score = [], [], model._generator.score

    def counted(texts):
        running.append(texts)
        most.append(len(running))
        time.sleep(0.01)
        found = score(texts)
        running.pop()
        return found

    model._generator.score = counted
    text = {"text": np.array([b"the"], object)}
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _: model.run("score", text)["logprob"].tolist(), range(8))]
    assert found == [found[0]] * 8 and max(most) == 1


def test_the_engine_is_not_called_by_name(exported):
    model = LiteRTModel("toy", 1, exported[0], [2])
    with pytest.raises(ServingError, match="is internal to this server"):
        model.run("engine_start", {})
    with pytest.raises(ServingError, match="Ask for its metadata over REST"):
        metadata_response(model)
    assert isinstance(model.make_engine(), LiteRTEngine) and model.warm_up() == 1


def test_a_folder_of_versions(exported, tmp_path):
    base = tmp_path / "models"
    base.mkdir()
    assert registry.needs_tensorflow(base)  # nobody knows what it will get
    assert registry.needs_tensorflow(tmp_path / "gone")
    (base / "3").symlink_to(exported[0])
    assert not registry.needs_tensorflow(base) and not registry.needs_tensorflow(exported[0])
    (answer,) = ask(base, ("/v1/models/toy",))
    assert answer.json()["model_version_status"][0]["version"] == "3"
    (base / "4").mkdir()
    (base / "4" / "saved_model.pb").touch()
    assert registry.needs_tensorflow(base)
    with pytest.raises(ServingError, match="The directory has none of"):
        registry.load("toy", 1, tmp_path)


_PROGRAM = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_serving", "keras", "grpc"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from tfgpt2.cli.main import main
main()
"""


@contextlib.contextmanager
def process_without_tensorflow(folder, tmp_path, log):
    """The address of `tfgpt2 serve`, stopped gracefully; `log` gets the lines of its errors."""
    command = [sys.executable, "-c", _PROGRAM, "serve", str(folder), "--port", "0"]
    home = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=home) as process:
        line = process.stdout.readline()
        try:
            assert "http://" in line and "gRPC" not in line
            yield line.split()[-1]
        finally:
            process.terminate()
            log += process.stderr.read().splitlines()
        assert process.wait(60) == 0, log


@pytest.mark.long
def test_a_process_without_tensorflow_serves(exported, loaded, tmp_path):
    body = {"model": exported[0].name, "prompt": "the her", "max_tokens": 20, **SAMPLED}
    log = []
    with process_without_tensorflow(exported[0], tmp_path, log) as url:
        with httpx.Client(base_url=url, timeout=120) as client:
            found = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
            stream = client.post("/v1/completions", json=body | {"stream": True})
    expected = loaded.generate("the her", max_new_tokens=20, **SAMPLED)
    assert found == expected == "".join(one["text"] for one in events(stream))
    assert any("No gRPC: it needs TensorFlow" in line for line in log)
    assert not any("INFO" in line for line in log)


@pytest.mark.long
def test_the_playground_suggests(exported, tmp_path):
    pytest.importorskip("selenium", reason="selenium is not installed")
    from selenium.webdriver.common.keys import Keys

    from tests.support.browser import chromium
    from tests.support.playground_page import Page

    with process_without_tensorflow(exported[0], tmp_path, []) as url:
        with chromium(tmp_path / "chromium") as driver:
            driver.set_window_size(1200, 900)
            page = Page(driver, url).ready()
            assert not page["tint"].is_enabled()  # there is no signature `inspect`
            page["text"].click()
            page.type("the her", Keys.TAB)
            page.until(lambda: page["more"].is_displayed())  # they come as they are written
            assert len(page.options) == 3
            assert not page.errors()


def test_a_damaged_folder_is_reported(exported, tmp_path):
    folder = shutil.copytree(exported[0], tmp_path / "copy")
    (folder / "model.tflite").write_bytes(b"x")
    states = ask(folder, ("/v1/models/toy",))[0].json()["model_version_status"]
    assert states[0]["state"] == "END" and "model.tflite" in states[0]["status"]["error_message"]
