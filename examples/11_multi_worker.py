"""Trains with several worker processes on this machine, as on several machines.

    python examples/11_multi_worker.py --text my-text.txt --output out --workers 2

Each worker runs the same command, `tfgpt2 train`, and finds the others through the environment
variable TF_CONFIG. On several machines, start the command on each of them, with their addresses
and an output directory that all of them share.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer


def free_ports(count: int) -> list[int]:
    """Free ports of this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main(
    text: Annotated[Path, typer.Option(help="UTF-8 training text.")],
    output: Annotated[Path, typer.Option(help="Directory for the model.")],
    workers: int = 2,
    model: str = "shakespeare-tiny",
    block_size: int = 64,
    batch: Annotated[int, typer.Option(help="Batch size of all workers together.")] = 8,
    steps: int = 50,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from a checkpoint.")] = False,
) -> None:
    """Starts the workers and waits for them; if one fails, the others are killed."""
    command = [sys.executable, "-m", "tfgpt2.cli", "train", "--texts", text, "--output", output,
               "--model", model, "--block-size", block_size, "--batch-size", batch,
               "--steps", steps, *(["--resume"] if resume else [])]  # fmt: skip
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    processes = []
    for index in range(workers):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        print(f"worker {index}: TF_CONFIG='{json.dumps(task)}'", flush=True)
        environment = os.environ | {"TF_CONFIG": json.dumps(task)}
        processes.append(subprocess.Popen([str(part) for part in command], env=environment))
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
    sys.exit(max(abs(code) for code in codes))


if __name__ == "__main__":
    typer.run(main)
