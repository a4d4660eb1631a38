"""Load test of the local server: 64 clients, all answers checked, a restart and a new version.

    make load

The bundled model is exported, served by `tfgpt2 serve` on loopback, and queried by 64 threads with
different prompts, batch sizes, lengths and settings, over REST and gRPC. Each answer is compared
with that of the same request sent alone. Five runs: on the engine, in batches of whole requests,
without batching, with a server that is killed and restarted, and with a new model version appearing
under load. Exits with 1 if an answer was wrong or a request failed unexpectedly.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

MODEL = "shakespeare-tiny"
CLIENTS = 64
REQUESTS = 48  # distinct requests
PROMPTS = ("ROMEO:\n", "To be, or not", "Now is the winter of", "JULIET:\nO Romeo", "KING:", "A")
DTYPES = {"temperature": tf.float32, "top_p": tf.float32, "min_p": tf.float32,
          "repetition_penalty": tf.float32, "seed": tf.int64}  # fmt: skip


def make_request(number: int) -> dict:
    """A `generate` request in columnar form, a function of its number."""
    random = np.random.RandomState(number)
    rows = int(random.choice([1, 1, 1, 2, 4]))
    return {
        "text": [PROMPTS[i] for i in random.randint(0, len(PROMPTS), rows)],
        "max_new_tokens": [int(random.choice([4, 8, 16, 32]))],
        "min_new_tokens": [0],
        "temperature": [float(random.choice([0.0, 0.7, 1.2]))],
        "top_k": [int(random.choice([0, 20]))],
        "top_p": [float(random.choice([1.0, 0.9]))],
        "min_p": [0.0],
        "repetition_penalty": [float(random.choice([1.0, 1.2]))],
        "seed": [int(random.randint(10000))],
        "stop": [[["."], ["\n\n", "the"], [""]][random.randint(3)]],
    }


class Server:
    """A `tfgpt2 serve` process on free ports."""

    def __init__(self, base: Path, *options: str, port: int = 0, grpc_port: int = 0):
        command = [sys.executable, "-m", "tfgpt2.cli", "serve", str(base), "--poll-seconds", "0.5"]
        command += ["--port", str(port), "--grpc-port", str(grpc_port), "--timeout-seconds", "60"]
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
        line = self.process.stdout.readline()
        found = re.search(r"(http://127\.0\.0\.1:(\d+)).*?(127\.0\.0\.1:(\d+))", line)
        if not found:
            raise RuntimeError(f"The server did not start. Received: {line!r}.")
        self.url, self.port, self.grpc, self.grpc_port = (
            found[1], int(found[2]), found[3], int(found[4])
        )  # fmt: skip

    def megabytes(self) -> float:
        """Resident memory in MB."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.terminate()
        return self.process.wait(60)


def send_rest(client: httpx.Client, request: dict) -> list[str]:
    """Send a request over REST; return its texts."""
    answer = client.post(
        f"/v1/models/{MODEL}:predict", json={"signature_name": "generate", "inputs": request}
    )
    if answer.status_code != 200:
        raise RuntimeError(f"HTTP {answer.status_code}: {answer.text[:200]}")
    return answer.json()["outputs"]["text"]


def send_grpc(stub: object, request: dict) -> list[str]:
    """Send a request over gRPC; return its texts."""
    message = predict_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = MODEL, "generate"
    for name, value in request.items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(value, DTYPES.get(name)))
    answer = stub.Predict(message, timeout=60)
    return [text.decode() for text in tf.make_ndarray(answer.outputs["text"])]


class Load:
    """Context manager that runs the clients.

    Args:
        server: The server.
        expected: The texts of each request when it is sent alone.
        retry: Whether to retry after a broken connection, as a production client does.
    """

    def __init__(self, server: Server, expected: list[list[str]], retry: bool = False):
        self.server, self.expected, self.retry = server, expected, retry
        self.seconds: list[float] = []
        self.errors: collections.Counter[str] = collections.Counter()
        self.retries = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(CLIENTS)
        ]

    def _work(self, client_number: int) -> None:
        random = np.random.RandomState(client_number)
        over_grpc = client_number % 4 == 0
        with contextlib.ExitStack() as stack:
            if over_grpc:
                channel = stack.enter_context(grpc.insecure_channel(self.server.grpc))
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                send = lambda request: send_grpc(stub, request)  # noqa: E731
            else:
                http = httpx.Client(base_url=self.server.url, timeout=60)
                stack.enter_context(http)
                send = lambda request: send_rest(http, request)  # noqa: E731
            while not self._stop.is_set():
                number = int(random.randint(REQUESTS))
                begin = time.perf_counter()
                try:
                    texts = self._send(send, make_request(number))
                except Exception as error:
                    self.errors[f"{type(error).__name__}: {error}"[:120]] += 1
                    continue
                self.seconds.append(time.perf_counter() - begin)
                if texts != self.expected[number]:
                    self.errors[f"request {number}: wrong answer"] += 1

    def _send(self, send: object, request: dict) -> list[str]:
        while True:
            try:
                return send(request)
            except (httpx.TransportError, grpc.RpcError) as error:
                lost = not isinstance(error, grpc.RpcError) or error.code().name == "UNAVAILABLE"
                if not (self.retry and lost) or self._stop.is_set():
                    raise
                self.retries += 1
                time.sleep(0.5)
            except RuntimeError as error:  # restarted and still loading the model
                if not (self.retry and "HTTP 503" in str(error)):
                    raise
                self.retries += 1
                time.sleep(0.5)

    def __enter__(self) -> Load:
        self._begin = time.perf_counter()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        self.wall = time.perf_counter() - self._begin

    def report(self, title: str) -> None:
        """Print throughput, latencies and errors."""
        p50, p95, p99 = np.percentile(self.seconds or [float("nan")], [50, 95, 99])
        print(
            f"{title:<22} {len(self.seconds):6d} answers {len(self.seconds) / self.wall:7.1f}/s"
            f"  p50 {p50:6.3f} s  p95 {p95:6.3f} s  p99 {p99:6.3f} s"
            f"  errors {sum(self.errors.values())}  retries {self.retries}",
            flush=True,
        )
        for error, count in self.errors.most_common(5):
            print(f"    {count} x {error}")


def metric(server: Server, name: str) -> float:
    """A counter of the server, summed over its labels."""
    page = httpx.get(f"{server.url}/metrics", timeout=30).text
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith((f"{name} ", f"{name}{{"))
    )


def steady(base: Path, seconds: float, title: str, *options: str) -> tuple[int, list[list[str]]]:
    """Steady load; return the number of errors, and the answers of the requests sent alone."""
    server = Server(base, *options)
    try:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            alone = [send_rest(http, make_request(number)) for number in range(REQUESTS)]
        with Load(server, alone) as load:
            time.sleep(min(10, seconds / 4))  # let threads, channels and arenas settle
            first = server.megabytes()
            time.sleep(seconds - min(10, seconds / 4))
            last = server.megabytes()
        load.report(title)
        batches = metric(server, "tfgpt2_batch_rows_count")
        print(
            f"    rows per batch {metric(server, 'tfgpt2_batch_rows_sum') / batches:.1f},"
            f" tokens {metric(server, 'tfgpt2_generated_tokens_total') / load.wall:.0f}/s,"
            f" memory {first:.0f} -> {last:.0f} MB"
        )
        status = server.stop()
        print(f"    exit status after SIGTERM: {status}")
        return sum(load.errors.values()) + (status != 0), alone
    finally:
        server.process.kill()


def new_version(base: Path, seconds: float, alone: list[list[str]]) -> int:
    """Load while version 2 appears and takes over; return the number of errors."""
    server = Server(base)
    try:
        with Load(server, alone) as load:
            time.sleep(seconds / 2)
            shutil.copytree(base / "1", base / ".part")
            (base / ".part").rename(base / "2")
            begin = time.monotonic()
            while newest(server) != 2 and time.monotonic() < begin + 200:
                time.sleep(0.2)
            took, before = time.monotonic() - begin, len(load.seconds)
            time.sleep(seconds / 2)
            memory = server.megabytes()
        load.report("a new version")
        print(
            f"    version {newest(server)} took over after {took:.0f} s and answered"
            f" {len(load.seconds) - before} requests, memory {memory:.0f} MB"
        )
        return sum(load.errors.values()) + (newest(server) != 2)
    finally:
        server.process.kill()


def newest(server: Server) -> int:
    """The newest available version; 0 if there is none."""
    answer = httpx.get(f"{server.url}/v1/models/{MODEL}", timeout=30).json()
    states = {int(v["version"]): v["state"] for v in answer["model_version_status"]}
    return max((v for v, state in states.items() if state == "AVAILABLE"), default=0)


def kill_and_restart(base: Path, seconds: float, alone: list[list[str]]) -> int:
    """Load on a server that is killed and restarted on the same ports; return the errors."""
    servers = [Server(base)]
    try:
        with Load(servers[0], alone, retry=True) as load:
            time.sleep(seconds / 3)
            servers[0].process.kill()
            servers[0].process.wait(30)
            before = len(load.seconds)
            ports = {"port": servers[0].port, "grpc_port": servers[0].grpc_port}
            servers.append(Server(base, **ports))
            time.sleep(2 * seconds / 3)
        load.report("killed and restarted")
        print(f"    answers before {before}, after {len(load.seconds) - before}")
        return sum(load.errors.values()) + (len(load.seconds) == before)
    finally:
        for server in servers:
            server.process.kill()


def main() -> int:
    """Run all parts; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="duration of each steady part")
    parser.add_argument("--jit-compile", action="store_true", help="export with XLA")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / MODEL
        command = [sys.executable, "-m", "tfgpt2.cli", "export", str(base / "1"), "--no-check"]
        command.append("--jit-compile" if options.jit_compile else "--no-jit-compile")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(f"{CLIENTS} clients, {REQUESTS} distinct requests, {os.cpu_count()} cores,"
              f" load average before {os.getloadavg()[0]:.1f}")  # fmt: skip
        errors, alone = steady(base, options.seconds, "engine")
        for title, *how in (("batched", "--no-engine"),
                            ("unbatched", "--no-engine", "--no-batching")):  # fmt: skip
            more, other = steady(base, options.seconds, title, *how)
            errors += more + (alone != other)
        errors += kill_and_restart(base, options.seconds / 2, alone)
        errors += new_version(base, options.seconds / 2, alone)
    print("all answers correct" if not errors else f"{errors} errors")
    return int(errors > 0)


if __name__ == "__main__":
    sys.exit(main())
