"""An export of the bundled model, made once, and server processes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest

START_SECONDS = 300  # the machine may be busy


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """The base directory of the bundled model's export: version 1, without XLA.

    Read-only: copy it to add versions.
    """
    from tfgpt2.serving.export.export import export
    from tfgpt2.text.generator import TextGenerator

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # shared by all workers: the first one makes it
    base = root / "saved_models" / "shakespeare-tiny"
    with filelock.FileLock(root / "saved_models.lock"):
        if not base.exists():
            generator = TextGenerator.from_pretrained("shakespeare-tiny")
            export(generator, base / "1", jit_compile=False, check=False)
    return base


class ServerProcess:
    """A `tfgpt2 serve` process on free ports of this machine."""

    def __init__(self, *arguments, port=0, grpc_port=0, wait=True):
        options = ["--port", str(port), "--grpc-port", str(grpc_port), "--timeout-seconds", "120"]
        self.lines, self.log = [], []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tfgpt2.cli", "serve", *map(str, arguments), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.log))
        ]
        for reader in self._readers:
            reader.start()
        if wait:
            self.wait_until_listening()

    def _read(self, pipe, lines):
        for line in pipe:
            lines.append(line)

    def wait_until_listening(self):
        end = time.monotonic() + START_SECONDS
        while not self.lines and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert self.lines, "".join(self.log)[-3000:]
        found = re.search(r"(http://127\.0\.0\.1:(\d+)).*?(127\.0\.0\.1:(\d+))", self.lines[0])
        self.url, self.port, self.grpc, self.grpc_port = (
            found[1], int(found[2]), found[3], int(found[4])
        )  # fmt: skip

    def terminate(self):
        """Sends SIGTERM and returns at once."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(30)


@pytest.fixture
def start_server():
    """Starts servers, which are killed when the test ends."""
    started = []

    def start(*arguments, **options):
        # Recorded before it listens, so that a server that never does is killed, too.
        server = ServerProcess(*arguments, **options, wait=False)
        started.append(server)
        server.wait_until_listening()
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def chrome(tmp_path_factory):
    """A browser with a profile of its own, for all pages."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    from tests.support.browser import chromium

    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="session")
def served(exported):
    """One server of the export, for all tests that only send requests."""
    server = ServerProcess(exported, wait=False)
    try:
        server.wait_until_listening()
        yield server
    finally:
        server.kill()
