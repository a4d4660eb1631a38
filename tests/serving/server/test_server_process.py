"""The server process: new and broken versions under load, SIGTERM, SIGKILL, imports."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests.support.server_requests import MODEL, column_request, predict, same_outputs


def add_version(base, number, source, broken=False):
    """Adds a version atomically, as an export does."""
    beside = base / f".{number}.part"
    shutil.copytree(source, beside)
    if broken:
        (beside / "variables" / "variables.index").write_bytes(b"no table")
    os.rename(beside, base / str(number))


def states(client):
    with contextlib.suppress(httpx.TransportError):
        answer = client.get(f"/v1/models/{MODEL}").json()
        return {int(v["version"]): v["state"] for v in answer["model_version_status"]}


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class Traffic:
    """Clients that send requests all the time and record errors."""

    def __init__(self, url, expected, clients=4):
        self.url, self.expected = url, expected
        self.answers, self.errors, self._stop = 0, [], threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]

    def _send(self):
        with httpx.Client(base_url=self.url, timeout=120) as client:
            while not self._stop.is_set():
                try:
                    if same_outputs(predict(client, column_request("ROMEO:\n")), self.expected):
                        self.answers += 1
                    else:
                        self.errors.append("different outputs")
                except Exception as error:
                    self.errors.append(repr(error))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        for thread in self._threads:
            thread.join(120)


@pytest.mark.long
def test_versions_switch_under_load_and_sigterm_lets_requests_finish(
    exported, tmp_path, start_server
):
    base = tmp_path / MODEL
    base.mkdir()
    add_version(base, 1, exported / "1")
    server = start_server(base, "--poll-seconds", "0.2")
    with httpx.Client(base_url=server.url, timeout=120) as client:
        expected = predict(client, column_request("ROMEO:\n"))
        with Traffic(server.url, expected) as traffic:
            add_version(base, 2, exported / "1")
            wait_for(lambda: states(client) == {2: "AVAILABLE", 1: "END"})
            add_version(base, 3, exported / "1", broken=True)
            wait_for(lambda: states(client).get(3) == "END")
            answered = traffic.answers
            wait_for(lambda: traffic.answers > answered + 4)
        assert traffic.errors == [] and traffic.answers > 10
        found = client.get(f"/v1/models/{MODEL}").json()["model_version_status"]
        assert [(v["version"], v["state"]) for v in found] == [
            ("3", "END"), ("2", "AVAILABLE"), ("1", "END")
        ]  # fmt: skip
        assert found[0]["status"]["error_code"] not in ("", "OK")
        assert "table" in found[0]["status"]["error_message"]

        answers = []
        long = column_request(["To be"] * 8, max_new_tokens=200, temperature=1.0)
        thread = threading.Thread(target=lambda: answers.append(predict(client, long)))
        thread.start()
        time.sleep(0.3)
        server.terminate()
        thread.join(120)
        assert len(answers) == 1 and len(answers[0]["text"]) == 8
    assert server.process.wait(60) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 5)
    assert "Traceback" not in "".join(server.log)


@pytest.mark.long
def test_a_restart_after_sigkill(exported, start_server):
    server = start_server(exported)
    with httpx.Client(base_url=server.url, timeout=120) as client:
        expected = predict(client, column_request("ROMEO:\n"))
    server.kill()
    with (
        httpx.Client(base_url=server.url, timeout=120) as client,
        pytest.raises(httpx.ConnectError),
    ):
        predict(client, column_request("ROMEO:\n"))
    again = start_server(exported, port=server.port, grpc_port=server.grpc_port)
    with httpx.Client(base_url=again.url, timeout=120) as client:
        assert same_outputs(predict(client, column_request("ROMEO:\n")), expected)


@pytest.mark.long
def test_a_port_in_use_is_an_error(exported, served):
    command = [sys.executable, "-m", "tfgpt2.cli", "serve", str(exported)]
    done = subprocess.run(
        [*command, "--port", str(served.port), "--grpc-port", "-1"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1 and "Cannot listen there" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("grpc_port", ["0", "-1"])
def test_only_the_server_itself_writes_to_standard_error(exported, grpc_port):
    """And not what TensorFlow and SentencePiece report where they start."""
    command = [sys.executable, "-m", "tfgpt2.cli", "serve", str(exported), "--port", "0"]
    hidden = ("TF_CPP_MIN_LOG_LEVEL", "TFGPT2_TRACEBACK")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    with subprocess.Popen(
        [*command, "--grpc-port", grpc_port], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as server:  # fmt: skip
        assert server.stdout.readline().startswith("REST and page: ")
        lines = [server.stderr.readline() for _ in range(2)]
        server.send_signal(signal.SIGTERM)
        lines += server.communicate()[1].splitlines()
    assert all(line.startswith(exported.name) for line in lines), lines


@pytest.mark.long
@pytest.mark.parametrize("kind", ["without", "grpc_api, saved_model"])
def test_the_server_imports_no_model_code(kind):
    """Without a SavedModel not even TensorFlow."""
    more = "" if kind == "without" else f"from tfgpt2.serving.server import {kind}"
    program = (
        f"import sys, tfgpt2.serving.server.run\n{more}\n"
        "known = {n for n in sys.modules if n.split('.')[0] in ('tfgpt2', 'keras_hub')}\n"
        "print(sorted(n for n in known if not n.startswith('tfgpt2.serving.server')))\n"
        "print('tensorflow' in sys.modules, 'grpc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, libraries = done.stdout.splitlines()
    expected = [
        "tfgpt2",
        "tfgpt2.chat_template",
        "tfgpt2.errors",
        "tfgpt2.keras_classes",
        "tfgpt2.quiet",
        "tfgpt2.serving",
        "tfgpt2.serving.chunks",
        "tfgpt2.serving.version_number",
        "tfgpt2.version",
    ]
    expected += [] if kind == "without" else ["tfgpt2.files", "tfgpt2.serving.chat_files"]
    assert modules == str(sorted(expected))
    assert libraries == ("False False" if kind == "without" else "True True")
