"""The client and the playground with the local server and real exports."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tfgpt2
from tests.support import toy_text
from tfgpt2.serving import Client, InvalidRequest, ModelNotFound, Unreachable

pytestmark = pytest.mark.long  # `tests/serving/server/test_client.py` is the quick proof
READY_SECONDS = 120  # the machine may be busy


class Served:
    """`tfgpt2 serve` in a process of its own."""

    def __init__(self, folder, port=0, grpc_port=0):
        command = [sys.executable, "-m", "tfgpt2.cli", "serve", str(folder), "--port", str(port),
                   "--grpc-port", str(grpc_port), "--timeout-seconds", "100"]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
        output = ""
        while not (ports := re.findall(r"127\.0\.0\.1:(\d+)", output))[1:]:
            line = self.process.stdout.readline()
            assert line, f"the server ended: {output}"
            output += line
        self.port, self.grpc_port = map(int, ports[:2])
        self.urls = f"http://127.0.0.1:{self.port}", f"grpc://127.0.0.1:{self.grpc_port}"

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    generator = toy_text.generator(jit_compile=False)
    folder = tmp_path_factory.mktemp("models") / "toy"
    generator.export(folder / "1", jit_compile=False, check=False)
    return generator, folder


@pytest.fixture(scope="module")
def served(toy):
    server = Served(toy[1])
    with Client(server.urls[0], "toy") as client:
        client.wait_until_ready(READY_SECONDS)
    yield server
    server.stop()


@pytest.fixture(params=["rest", "grpc"])
def client(request, served):
    with Client(served.urls[request.param == "grpc"], "toy", timeout=100) as made:
        yield made


def assert_same_record(one, other):
    """Compares records; log-probabilities up to rounding."""
    assert type(one).__name__ == type(other).__name__
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("logprob", "token_logprobs"):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)
        else:
            assert left == right, field.name


PROMPTS = ["the", "é", "", b"\xff\xc3"]


def test_texts_are_those_of_the_generator(client, toy):
    settings = {"max_new_tokens": [12, 5, 7, 3], "temperature": [0.0, 1.0, 0.7, 1.0], "seed": 5}
    expected = toy[0].generate(PROMPTS, details=True, stop="zz", **settings)
    for found, right in zip(client.generate(PROMPTS, stop="zz", **settings), expected, strict=True):
        assert_same_record(found, right)
    one_by_one = Client(client._endpoint.url, "toy", batch_size=1, timeout=100)
    for found, right in zip(one_by_one.generate(PROMPTS, stop="zz", **settings), expected,
                            strict=True):  # fmt: skip
        assert_same_record(found, right)  # rows keep their seeds in batches of any size
    assert client.generate("the", signature="serving_default").text_bytes


def test_scoring_signatures(client, toy):
    generator = toy[0]
    (ids,) = generator.tokenizer(["the é"])["input_ids"].numpy().tolist()
    assert client.tokenize("the é").ids == ids and client.detokenize(ids) == "the é"
    score, seen, nothing = client.score("the é"), client.inspect("the é"), client.inspect("")
    assert score.num_tokens == len(ids) - 1 and score.token_logprobs[0] == 0
    np.testing.assert_allclose(seen.token_logprobs, score.token_logprobs, atol=1e-5)
    assert b"".join(seen.tokens).decode() == "the é" and nothing.tokens == []
    assert seen.ranks[0] == 0 and min(seen.ranks[1:]) >= 1
    following = client.next_token("the")
    assert following.probabilities == sorted(following.probabilities, reverse=True)
    greedy = client.generate("the", max_new_tokens=1)
    assert greedy.token_ids == following.token_ids[:1]
    assert np.log(following.probabilities[0]) == pytest.approx(greedy.logprob, abs=1e-4)
    vector = client.embed(["the", "é"])[1]
    assert len(vector.last) == len(vector.mean) == generator.model.config.n_embd


def test_streams(client):
    stream = client.stream("the", max_new_tokens=30, temperature=1, seed=3, chunk_tokens=4)
    text = "".join(stream)
    assert text == stream.text and stream.finish_reason in ("length", "eos")
    again = client.stream("the", max_new_tokens=30, temperature=1, seed=3, chunk_tokens=4)
    assert "".join(again) == text
    assert text.encode()  # no half characters


def test_status_metadata_and_refusals(client, served):
    (status,) = client.status()
    assert (status.version, status.state) == (1, "AVAILABLE")
    model = client.metadata()
    assert model.version == 1 and model.signatures["generate"].inputs["seed"].dtype == "DT_INT64"
    with pytest.raises(ModelNotFound, match=r"\(version 9\)"):
        Client(client._endpoint.url, "toy", 9).tokenize("a")
    with pytest.raises(ModelNotFound, match="'nobody'"):
        Client(client._endpoint.url, "nobody").tokenize("a")
    with pytest.raises(InvalidRequest, match="generat"):
        client.predict("generat", {"text": ["a"]})


@pytest.mark.long
def test_a_server_that_is_killed_and_comes_back(toy):
    server = Served(toy[1])
    clients = [Client(url, "toy", timeout=READY_SECONDS, retries=999) for url in server.urls]
    for client in clients:
        client.wait_until_ready(READY_SECONDS)
        client.tokenize("a")
    server.stop(signal.SIGKILL)
    with pytest.raises(Unreachable):
        Client(server.urls[0], "toy", retries=0).tokenize("a")
    again = Served(toy[1], server.port, server.grpc_port)
    try:
        clients[0].wait_until_ready(
            READY_SECONDS
        )  # a model that is not loaded is not found, without a retry
        for client in clients:
            assert client.tokenize("a").ids == [97]
    finally:
        again.stop()


@pytest.mark.long
def test_the_page_with_the_bundled_model(tmp_path):
    browser = pytest.importorskip("tests.serving.test_playground")
    generator = tfgpt2.TextGenerator.from_pretrained("shakespeare-tiny", jit_compile=False)
    folder = tmp_path / "shakespeare-tiny"
    generator.export(folder / "1", jit_compile=False, check=False)
    server = Served(folder)
    try:
        with Client(server.urls[0], timeout=100) as client:
            client.wait_until_ready(READY_SECONDS)
            # Text that the tokenizer cuts as the model chose it: one request and many agree.
            whole = client.generate("JULIET:\nO ", max_new_tokens=60, stop="\n\n")
            for size in (3, 16):
                pieces = client.stream(
                    "JULIET:\nO ", max_new_tokens=60, stop="\n\n", chunk_tokens=size
                )
                assert "".join(pieces) == whole.text
        write_and_tint(browser, server, tmp_path)
    finally:
        server.stop()


def write_and_tint(browser, server, folder):
    with browser.chromium(folder / "profile") as driver:
        page = browser.Page(driver, server.urls[0]).ready()
        assert page["model"].get_property("value") == "shakespeare-tiny"
        driver.set_window_size(1200, 900)
        page["text"].send_keys("To be, or not to be")
        assert 1 <= len(page.suggestions()) <= 3
        page.type("1")
        written = page.value
        assert len(written) > len("To be, or not to be")
        page["tint"].click()
        page.until(lambda: page["tinted"].is_displayed())
        assert page["tinted"].get_property("textContent") == written
        assert "perplexity" in page["legend"].text
        assert not page.errors()
        server.process.kill()
        time.sleep(0.5)
        page["suggest"].click()
        page.until(lambda: "The server does not answer." in page["banner"].text)
        assert page.value == written
