"""LiteRT beside TensorFlow: time to the first token, memory, and the loss of smaller numbers.

    python benchmarks/litert.py start CHECKPOINT EXPORT [--rounds 5]
    python benchmarks/litert.py perplexity TEXT FLOAT32_EXPORT EXPORT ...

`start` runs `tfgpt2 generate` for one token and for 64 in new processes, with TensorFlow and with
LiteRT in turn, and prints medians of the seconds from the start of a process to its end, their
ratio, and the largest resident memory. The first run of an export, in which the runtime prepares
the weights, is printed by itself. CHECKPOINT is a folder with a tokenizer or a bundled name.

`perplexity` scores the last tenth of a file in pieces of 600 characters.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "It is a truth universally acknowledged"
PIECE = 600  # characters


def measure(model: str, runtime: str, new: int, cache: str) -> tuple[float, float]:
    """Seconds and megabytes of a process that generates `new` tokens."""
    command = [sys.executable, "-m", "tfgpt2.cli", "generate", PROMPT, "--model", model]
    command += ["--runtime", runtime, "-n", str(new), "--temperature", "0"]
    environment = os.environ | {"XDG_CACHE_HOME": cache, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"this failed: {' '.join(command)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3  # kilobytes


def start(checkpoint: str, export: str, rounds: int) -> None:
    """Prints the table of both runtimes."""
    with tempfile.TemporaryDirectory() as cache:
        first, memory = measure(export, "litert", 1, cache)
        print(f"first run of the export: {first:.2f} s, {memory:.0f} MB")
        for new in (1, 64):
            found: dict[str, list[tuple[float, float]]] = {"tensorflow": [], "litert": []}
            for _ in range(rounds):
                for runtime, runs in found.items():
                    model = export if runtime == "litert" else checkpoint
                    runs.append(measure(model, runtime, new, cache))
            for runtime, runs in found.items():
                seconds = statistics.median(run[0] for run in runs)
                print(
                    f"{new:3} tokens, {runtime:10}: {seconds:6.2f} s"
                    f" ({min(run[0] for run in runs):.2f} at best),"
                    f" {max(run[1] for run in runs):5.0f} MB"
                )
            ratios = [
                slow[0] / fast[0]
                for slow, fast in zip(found["tensorflow"], found["litert"], strict=True)
            ]
            print(f"{new:3} tokens: LiteRT is {statistics.median(ratios):.1f} times as fast")


def perplexity(text: Path, exports: list[str]) -> None:
    """Prints the perplexity of each export, and its ratio to the first."""
    from tfgpt2.litert import LiteRTGenerator

    content = text.read_text(encoding="utf-8")
    content = content[len(content) * 9 // 10 :]
    pieces = [content[i : i + PIECE] for i in range(0, len(content), PIECE)]
    base = 0.0
    for export in exports:
        with tempfile.TemporaryDirectory() as cache:
            scores = LiteRTGenerator.from_pretrained(export, cache_dir=cache).score(pieces)
        tokens = sum(one.num_tokens for one in scores)
        value = math.exp(-sum(one.logprob for one in scores) / tokens)
        base = base or value
        print(f"{export}: {value:.4f} over {tokens} tokens, {100 * (value / base - 1):+.3f} %")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("start")
    one.add_argument("checkpoint")
    one.add_argument("export")
    one.add_argument("--rounds", type=int, default=5)
    two = commands.add_parser("perplexity")
    two.add_argument("text", type=Path)
    two.add_argument("exports", nargs="+")
    options = parser.parse_args()
    if options.command == "start":
        start(options.checkpoint, options.export, options.rounds)
    else:
        perplexity(options.text, options.exports)


if __name__ == "__main__":
    main()
