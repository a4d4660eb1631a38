"""The engine of `tfgpt2 serve` against the same server without it, in one run.

    python benchmarks/engine.py [--export saved_models/shakespeare-tiny] [--seconds 15]
    python benchmarks/engine.py --shape 124M --servers engine ctranslate2

64 clients send prompts of 8 to 200 tokens and ask for 8 to 256 tokens, with a long tail, greedily
and sampled. Two servers of one export, with the engine and with `--no-engine`, are measured in
turns, with streams and with whole answers. Printed: tokens per second, time to the first token,
time between pieces, and wrong answers: texts that differ from those of the same request sent alone.

With `ctranslate2` among the servers, prompts are ids and all is greedy; a server of CTranslate2
with static batches (`ctranslate2_server.py`) takes part in the rounds with whole answers.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import checkpoint
import environments
import numpy as np
import psutil

CLIENTS, REQUESTS, CONTEXT = 64, 32, 256
BUCKETS = (64, 256)  # of prompts and outputs: few programs to compile before the measurement
WORDS = "my lord the king and love shall not be with a heart of day for night to come".split()


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model: its name on the server, its checkpoint, its tokenizer and the ids in use."""

    name: str
    folder: Path
    tokenizer: str
    ids: int


def shape_of(name: str, folder: Path) -> Shape:
    """The bundled model, or one of GPT-2's smallest shape with random weights."""
    if name == "bundled":
        import tfgpt2

        name = "shakespeare-tiny"
        tfgpt2.TFGPT2LMHeadModel.from_pretrained(name).save_pretrained(folder / "model")
        return Shape(name, folder / "model", name, 1000)
    sys.path.insert(0, str(Path(__file__).parent / "backends"))
    from tfgpt2_saved_model import vocabulary

    path = checkpoint.write(folder / "model")
    return Shape("gpt2-124m", path, str(vocabulary()), 50_000)


class Answer(NamedTuple):
    """What a client has seen: the text, its tokens, and when each piece came."""

    text: str
    tokens: int
    times: list[float]


def make_requests(shape: Shape, *, plain: bool) -> list[dict[str, Any]]:
    """Requests whose lengths have a long tail; plain ones are ids, and greedy."""
    random = np.random.RandomState(0)
    requests = []
    for number in range(REQUESTS):
        prompt = int(np.clip(random.lognormal(3.6, 0.8), 8, 200))
        most = int(np.clip(random.lognormal(3.8, 0.9), 8, 256))
        requests.append({
            "model": shape.name,
            "prompt": [int(one) for one in random.randint(1, shape.ids, prompt)]
            if plain or number % 4 == 0
            else " ".join(random.choice(WORDS, max(1, prompt * 3 // 4))),
            "max_tokens": min(most, CONTEXT - prompt),
            "temperature": 0.0 if plain else float(random.choice([0.0, 0.8])),
            "top_p": 1.0 if plain else float(random.choice([1.0, 0.95])),
            "seed": number,
            "ignore_eos": True,
        })  # fmt: skip
    return requests


class Server:
    """A server process; the first line that it prints has its address."""

    def __init__(self, command: list[str], cache: Path | None):
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | ({} if cache is None else {
                "TF_XLA_FLAGS": f"--tf_xla_persistent_cache_directory={cache}"
            }),
        )  # fmt: skip
        line = self.process.stdout.readline()
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])
        while not self._is_ready():
            time.sleep(1)

    def _is_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health").close()
        except urllib.error.HTTPError as error:
            return error.code == 501  # a server without this path
        return True

    def megabytes(self) -> float:
        """Resident memory in MB."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6


async def ask(port: int, request: dict[str, Any], *, stream: bool) -> Answer:
    """Sends a completion request, by hand: clients must not cost what is measured."""
    usage = {"stream_options": {"include_usage": True}} if stream else {}
    body = json.dumps(request | {"stream": stream} | usage).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    writer.write(
        f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + body
    )
    status = await reader.readline()
    if b"200" not in status:
        raise RuntimeError((await reader.read()).decode()[-300:])
    text, tokens, times = "", 0, []
    if not stream:
        answer = json.loads((await reader.read()).split(b"\r\n\r\n", 1)[1])
        text, tokens = answer["choices"][0]["text"], answer["usage"]["completion_tokens"]
    else:
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(str(event))
            if event["choices"] and event["choices"][0]["text"]:
                text += event["choices"][0]["text"]
                times.append(time.perf_counter())
            elif not event["choices"]:
                tokens = event["usage"]["completion_tokens"]
    writer.close()
    return Answer(text, tokens, times or [time.perf_counter()])


async def load(
    port: int, requests: list[dict], expected: list[str | None], seconds: float, *, stream: bool
) -> dict[str, Any]:
    """Keeps all clients busy for a while."""
    end, begin = time.perf_counter() + seconds, time.perf_counter()
    done: list[tuple[float, Answer]] = []
    wrong = failed = 0

    async def client(number: int) -> None:
        nonlocal wrong, failed
        random = np.random.RandomState(number)
        while time.perf_counter() < end:
            index = int(random.randint(len(requests)))
            start = time.perf_counter()
            try:
                answer = await ask(port, requests[index], stream=stream)
            except (RuntimeError, OSError) as error:
                failed += 1
                print("   ", str(error)[:200])
                continue
            done.append((start, answer))
            wrong += expected[index] is not None and answer.text != expected[index]

    await asyncio.gather(*map(client, range(CLIENTS)))
    wall = time.perf_counter() - begin
    first = [answer.times[0] - start for start, answer in done]
    gaps = [gap for _, answer in done for gap in np.diff(answer.times)]
    return {
        "tokens/s": sum(answer.tokens for _, answer in done) / wall,
        "first p50": np.percentile(first, 50), "first p99": np.percentile(first, 99),
        "gap p50": np.percentile(gaps or [0], 50), "gap p99": np.percentile(gaps or [0], 99),
        "answers": len(done), "wrong": wrong, "failed": failed,
    }  # fmt: skip


async def alone(port: int, requests: list[dict]) -> list[str]:
    """The text of each request, sent one after the other."""
    return [(await ask(port, request, stream=False)).text for request in requests]


def comparable(
    name: str, requests: list[dict], expected: list[str], *, stream: bool
) -> list[str | None]:
    """The texts that a server must answer with; None where another one is right, too.

    CTranslate2's are not compared. Without the engine each piece of a sampled stream has a seed of
    its own, so the text is not that of the whole answer.
    """
    if name == "ctranslate2":
        return [None] * len(requests)
    own_seeds = stream and name == "without"
    pairs = zip(requests, expected, strict=True)
    return [None if own_seeds and one["temperature"] else text for one, text in pairs]


async def stream_cost(port: int, name: str) -> float:
    """Time of a stream of 252 tokens over that of the same request, not streamed; one client."""
    request = {"model": name, "prompt": "A", "max_tokens": CONTEXT - 4, "temperature": 0,
               "ignore_eos": True}  # fmt: skip
    best = {}
    for stream in (False, True) * 4:
        start = time.perf_counter()
        await ask(port, request, stream=stream)
        best[stream] = min(best.get(stream, 1e9), time.perf_counter() - start)
    print(f"252 tokens, one client: {best[False]:.3f} s, streamed {best[True]:.3f} s")
    return best[True] / best[False]


def run(base: Path, shape: Shape, options: argparse.Namespace) -> None:
    """Measures the servers in turns."""
    requests = make_requests(shape, plain="ctranslate2" in options.servers)
    command = [sys.executable, "-m", "tfgpt2.cli", "serve", str(base), "--port", "0"]
    command += ["--grpc-port", "-1", "--timeout-seconds", "600"]
    python = environments.interpreter("ctranslate2")
    program = Path(__file__).with_name("ctranslate2_server.py")
    commands = {
        "engine": [*command, "--engine-slots", str(options.slots)],
        "without": [*command, "--no-engine"],
        "ctranslate2": [str(python), str(program), str(shape.folder), str(options.slots)],
    }
    servers = {name: Server(commands[name], options.cache) for name in options.servers}
    clock = time.perf_counter()

    def note(what: str) -> None:
        print(f"[{time.perf_counter() - clock:.0f} s] {what}", flush=True)

    try:
        expected = asyncio.run(alone(servers["engine"].port, requests))
        note("answers of requests sent alone")
        cost = asyncio.run(stream_cost(servers["engine"].port, shape.name))
        note(f"stream / whole: {cost:.3f}")
        results: dict[tuple[str, bool], list[dict]] = {}
        for stream in (True, False):
            for turn in range(options.turns + 1):
                for name, server in servers.items():
                    if stream and name == "ctranslate2":
                        continue
                    seconds = options.seconds if turn else options.warm  # XLA compiles at first
                    right = comparable(name, requests, expected, stream=stream)
                    found = asyncio.run(load(server.port, requests, right, seconds, stream=stream))
                    note(f"{name}, stream {stream}: {found}")
                    if turn:
                        results.setdefault((name, stream), []).append(found)
        print(f"{CLIENTS} clients, {options.slots} slots, {options.seconds:.0f} s each, in turns")
        for (name, stream), found in results.items():
            mean = {key: np.mean([one[key] for one in found]) for key in found[0]}
            counts = {key: sum(one[key] for one in found) for key in ("answers", "wrong", "failed")}
            line = "  ".join(f"{key} {mean[key]:.3f}" for key in list(mean)[:5])
            print(f"{name:<11} {'stream' if stream else 'whole ':<6} {line}  {counts}")
        for name, server in servers.items():
            print(f"{name}: {server.megabytes():.0f} MB")
    finally:
        for server in servers.values():
            server.process.kill()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", type=Path, help="folder of an export's versions")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--warm", type=float, default=30, help="seconds of load before, each")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--cache", type=Path, help="folder in which XLA keeps its programs")
    parser.add_argument("--shape", choices=("bundled", "124M"), default="bundled")
    parser.add_argument(
        "--servers",
        nargs="+",
        default=["engine", "without"],
        choices=("engine", "without", "ctranslate2"),
        help="engine comes first",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shape = shape_of(options.shape, Path(folder))
        if options.export is not None:
            run(options.export, shape, options)
            return
        import tfgpt2

        base = Path(folder) / shape.name
        generator = tfgpt2.TextGenerator(
            tfgpt2.TFGPT2LMHeadModel.from_pretrained(shape.folder),
            tfgpt2.TFGPT2Tokenizer.from_pretrained(shape.tokenizer),
        )
        generator.export(base / "1", check=False, prompt_buckets=BUCKETS, output_buckets=BUCKETS)
        run(base, shape, options)


if __name__ == "__main__":
    main()
