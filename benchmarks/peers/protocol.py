"""How a peer answers the driver: JSON lines, one answer for each request, until `quit`.

    {"do": "hello"}                                             -> {"import_seconds": ..., ...}
    {"do": "prepare"}                                           -> {"made": false}
    {"do": "load"}                                              -> {"seconds": ..., memory}
    {"do": "decode", "batch": 1, "prompt": 32, "new": 64}       -> {"seconds": ...}
    {"do": "decode", ..., "tokens": true}                       -> {..., "tokens": [[...]]}
    {"do": "sample", ..., "top_p": 0.9}, {"do": "beam", ..., "beams": 4}
    {"do": "memory"}                                            -> {"rss_mb": ..., "peak_mb": ...}

A request that goes wrong is answered by `{"error": ...}`, and the peer stays alive. This file runs
in every peer's environment, so it needs Python and NumPy alone. The prompt is made here from its
shape, so all peers read the same ids.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2
VOCABULARY = 50256  # the end of text is never asked for and never chosen: its row is zero
DUMP = "TFGPT2_BENCH_DUMP"  # a folder: XLA writes each program there, and answers count them

# Library pools read these when they are loaded, so they are set before.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = str(THREADS)
for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[_name] = str(THREADS)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
if DUMP in os.environ:
    os.environ["XLA_FLAGS"] = f"--xla_dump_to={os.environ[DUMP]} --xla_dump_hlo_as_text"


def prompts(batch: int, columns: int) -> np.ndarray:
    """Random ids int32 `[B, P]`, the same for the same shape everywhere."""
    return np.random.default_rng([batch, columns]).integers(
        0, VOCABULARY, (batch, columns), dtype=np.int32
    )


def memory() -> dict[str, float]:
    """What this process holds now, and the most it has held, in MB (10^6 bytes)."""
    values = {}
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            values[name] = rest.split()
    return {f"{key}_mb": int(values[name][0]) * 1024 / 1e6
            for key, name in (("rss", "VmRSS"), ("peak", "VmHWM"))}  # fmt: skip


class Peer:
    """What a program must be able to do; a method that is left out is a case it does not run.

    Args:
        folder: The checkpoint in transformers' format.
        variant: Which kind, such as `"float32"` or `"int8"`.
    """

    def __init__(self, folder: Path, variant: str) -> None:
        self.folder, self.variant = folder, variant

    def prepare(self) -> bool:
        """Converts the checkpoint once, where the program has a format of its own.

        Returns:
            Whether there was something to do: the driver then starts the peer anew, so that this
            does not count.
        """
        return False

    def load(self) -> None:
        """Loads the model."""
        raise NotImplementedError

    # Each takes ids int32 `[B, P]` and how many tokens to add, and returns the new ids `[B, new]`:
    #     decode(ids, new)              greedy
    #     sample(ids, new, top_p)       temperature 1
    #     beam(ids, new, beams)         the best text


_TIMED = ("decode", "sample", "beam", "core")


def compiled() -> int:
    """How many programs XLA has compiled in this process; 0 where it was not asked to say."""
    folder = os.environ.get(DUMP)
    return len(list(Path(folder).glob("*before_optimizations.txt"))) if folder else 0


def answer(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """Does what one request asks."""
    what = request["do"]
    if what == "memory":
        return memory()
    if what == "prepare":
        return {"made": peer.prepare()}
    if what == "load":
        start = time.perf_counter()
        peer.load()
        return {"seconds": time.perf_counter() - start, **memory()}
    if what not in _TIMED:  # a case of this peer alone; it measures for itself
        return getattr(peer, what)(**{k: v for k, v in request.items() if k != "do"})
    ids = prompts(request["batch"], request["prompt"])
    extra = [request[name] for name in ("top_p", "beams") if name in request]
    method = getattr(peer, what)
    programs, start, cpu = compiled(), time.perf_counter(), time.process_time()
    new = method(ids, request["new"], *extra)
    found = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    found["compiled"] = compiled() - programs
    new = np.asarray(new)
    if new.shape != (request["batch"], request["new"]):
        raise ValueError(f"asked for {(request['batch'], request['new'])} tokens, got {new.shape}")
    return found | ({"tokens": new.tolist()} if request.get("tokens") else {})


def serve(make: Callable[[Path, str], Peer], libraries: Sequence[str]) -> None:
    """Answers requests until there are no more.

    Args:
        make: Makes the peer from the checkpoint's folder and the variant.
        libraries: Modules to import first, timed; the first one's version is reported.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--variant", default="float32")
    options = parser.parse_args()
    # Libraries print where they like: answers get a stream of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    start = time.perf_counter()
    for name in libraries:
        importlib.import_module(name)
    hello = {"import_seconds": time.perf_counter() - start, "version": _version(libraries[0])}
    peer = make(options.model, options.variant)
    hello["can"] = [name for name in dir(peer) if not name.startswith("_")]
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        try:
            reply = hello | memory() if request["do"] == "hello" else answer(peer, request)
        except Exception as error:  # whatever a library raises is reported, and the rest goes on
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def _version(module: str) -> str:
    """The version of a library by the name of its module."""
    name = module.split(".")[0]
    try:
        return version({"llama_cpp": "llama-cpp-python"}.get(name, name))
    except Exception:  # not installed under that name
        return str(getattr(sys.modules[name], "__version__", "?"))
