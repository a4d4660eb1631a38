"""Errors of the client: wrong arguments, refusals, lost connections and time limits."""

import pickle
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.support.fake_model import make_client, refusal
from tfgpt2.serving import Client, ClientError
from tfgpt2.serving.client import exceptions, retrying


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"top_pp": 1}, TypeError, "Did you mean 'top_p'"),
        ({"temperature": "hot"}, TypeError, "`temperature` must be a number"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"top_k": 1.5}, TypeError, "`top_k` must be an integer"),
        ({"top_k": True}, TypeError, "integer"),
        ({"top_p": 1.1}, ValueError, r"\[0, 1\]"),
        ({"seed": -2}, ValueError, "seed"),
        ({"max_new_tokens": [1, 2, 3]}, ValueError, "2 values"),
        ({"stop": 5}, TypeError, "stop"),
        ({"stop": [["a"]]}, TypeError, "each of the 2"),
        ({"stop": "x" * 257}, ValueError, "256 bytes"),
        ({"stop": ["x"] * 65}, ValueError, "64 stop strings"),
    ],
)
def test_wrong_settings_never_travel(client, rest, options, error, words):
    with pytest.raises(error, match=words):
        client.generate(["a", "b"], **options)
    assert not rest.requests


@pytest.mark.parametrize("wrong", [5, [1], None, {"a": 1}])
def test_wrong_prompts(client, wrong):
    with pytest.raises(TypeError, match="`prompts` must be a string"):
        client.generate(wrong)


@pytest.mark.parametrize("url", ["localhost:8501", "ftp://a", "http://", ""])
def test_wrong_urls(url):
    with pytest.raises(ValueError, match="`url` must begin with"):
        Client(url)


@pytest.mark.parametrize(
    "trouble",
    [refusal(503), refusal(429), httpx.ConnectError("refused"), httpx.RemoteProtocolError("gone"),
     httpx.ReadError("reset")],
    ids=["503", "429", "connect", "disconnect", "reset"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(rest, trouble):
    rest.first = [trouble, trouble]
    assert make_client(rest).tokenize("a").ids == [97]
    assert len(rest.requests) == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, exceptions.InvalidRequest),
        (401, exceptions.Unauthorized),
        (404, exceptions.ModelNotFound),
        (500, exceptions.ServerFault),
        (504, exceptions.DeadlineExceeded),
        (418, exceptions.ServerFault),
    ],
)
def test_what_does_not_pass_is_not(rest, status, kind):
    rest.first = [refusal(status, "it says:\n why.")]
    with pytest.raises(kind) as caught:
        make_client(rest, version=2).tokenize("a")
    assert len(rest.requests) == 1
    message = str(caught.value)
    assert message.startswith("Model 'm' (version 2) at http://host:8501 ")
    assert message.endswith(f"({status}): it says: why.") and "\n" not in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message  # crosses processes


def test_giving_up(rest):
    rest.first = [httpx.ConnectError("connection refused")] * 9
    with pytest.raises(exceptions.Unreachable) as caught:
        make_client(rest, retries=2).tokenize("a")
    assert str(caught.value) == (
        "Model 'm' (newest version) at http://host:8501 cannot be reached: connection refused;"
        " 3 attempts."
    )
    assert len(rest.requests) == 3 and isinstance(caught.value.__cause__, httpx.ConnectError)


def test_a_server_without_xla_is_explained(rest):
    rest.first = [refusal(500, "XLA compilation disabled")]
    with pytest.raises(ClientError, match="--xla_cpu_compilation_enabled=true"):
        make_client(rest).tokenize("a")


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(200, text="<html>"), httpx.Response(200, json={}),
     httpx.Response(200, json={"outputs": {"ids": [[1]]}}),
     httpx.Response(200, json={"outputs": {"ids": [[1]] * 2, "num_tokens": [1, 1]}}),
     httpx.Response(200, json=[1])],
)  # fmt: skip
def test_answers_that_break_the_contract(rest, answer):
    rest.first = [answer]
    with pytest.raises(exceptions.BadAnswer, match="gave"):
        make_client(rest).tokenize("a")


def test_a_failing_part_fails_the_call(rest):
    rest.first = [refusal(400, "bad row")]
    with pytest.raises(exceptions.InvalidRequest, match="bad row"):
        make_client(rest, batch_size=1, concurrency=2).tokenize(["a"] * 40)
    assert len(rest.requests) < 40  # what had not begun was dropped


def test_pauses_grow_and_keep_to_the_limit():
    now, pauses = [0.0], []

    def sleep(seconds):
        pauses.append(seconds)
        now[0] += seconds

    def fail(left):
        now[0] += 0.01
        raise exceptions.ServerBusy(
            exceptions.Endpoint("u", "m", None), "is busy", retry_after=after
        )

    after = None
    retrying._FIRST_PAUSE = 0.1  # the fixture puts it back
    with pytest.raises(exceptions.ServerBusy):
        retrying.attempt_within(fail, timeout=10, retries=99, sleep=sleep, clock=lambda: now[0])
    assert now[0] <= 10 and len(pauses) > 4
    for attempt, seconds in enumerate(pauses):
        most = min(5.0, 0.1 * 2**attempt)
        assert most / 2 <= seconds <= most
    assert len(set(pauses)) == len(pauses)  # random
    after, pauses[:] = 2.0, []
    with pytest.raises(exceptions.ServerBusy):
        retrying.attempt_within(fail, timeout=5, retries=99, sleep=sleep, clock=lambda: now[0])
    assert pauses == [2.0, 2.0]


class Drip(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b" ")
            time.sleep(0.05)

    def log_message(self, *unused):
        pass


def test_the_time_limit_holds_for_a_server_that_drips():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Drip)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Client(f"http://127.0.0.1:{server.server_port}", timeout=0.3) as client:
            begin = time.monotonic()
            with pytest.raises(exceptions.DeadlineExceeded, match="within 0.3 s"):
                client.tokenize("a")
            assert time.monotonic() - begin < 1
    finally:
        server.shutdown()


def test_nobody_there():
    with Client("http://127.0.0.1:9", retries=1) as client:
        with pytest.raises(exceptions.Unreachable, match="cannot be reached"):
            client.status()


def test_waiting_for_a_server(rest):
    def state(name):
        version = {"version": "1", "state": name, "status": {"error_code": "OK"}}
        return httpx.Response(200, json={"model_version_status": [version]})

    rest.first = [httpx.ConnectError("refused"), refusal(404), state("LOADING"), state("AVAILABLE")]
    make_client(rest).wait_until_ready()
    assert len(rest.requests) == 4
    rest.first = [state("LOADING")] * 99
    with pytest.raises(exceptions.DeadlineExceeded, match=r"within 0.3 s \(version 1 is LOADING\)"):
        make_client(rest).wait_until_ready(0.3)
    rest.first = [refusal(401)]
    with pytest.raises(exceptions.Unauthorized):
        make_client(rest).wait_until_ready()
