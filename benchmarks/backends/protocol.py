"""Protocol between the driver and a backend: one JSON line per request and answer, until `quit`.

    {"do": "hello"}                                             -> {"import_seconds": ..., ...}
    {"do": "prepare"}                                           -> {"made": false}
    {"do": "load"}                                              -> {"seconds": ..., memory}
    {"do": "decode", "batch": 1, "prompt": 32, "new": 64}       -> {"seconds": ...}
    {"do": "decode", ..., "tokens": true}                       -> {..., "tokens": [[...]]}
    {"do": "sample", ..., "top_p": 0.9}, {"do": "beam", ..., "beams": 4}
    {"do": "memory"}                                            -> {"rss_mb": ..., "peak_mb": ...}

A failed request is answered with `{"error": ...}` and the backend keeps running. This file runs in
every backend's environment, so it needs only Python and NumPy. Prompts are a function of their
shape, so all backends get the same ids.
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
VOCABULARY = 50256  # without the end-of-text token, which is never in a prompt and never generated
DUMP = "TFGPT2_BENCH_DUMP"  # folder into which XLA dumps each compiled program

# Thread pools read these when the libraries are loaded.
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
    """Random ids int32 `[B, P]`, a function of the shape alone."""
    return np.random.default_rng([batch, columns]).integers(
        0, VOCABULARY, (batch, columns), dtype=np.int32
    )


def memory() -> dict[str, float]:
    """Current and peak resident memory of this process, in MB (10^6 bytes)."""
    values = {}
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            values[name] = rest.split()
    return {f"{key}_mb": int(values[name][0]) * 1024 / 1e6
            for key, name in (("rss", "VmRSS"), ("peak", "VmHWM"))}  # fmt: skip


class Backend:
    """Base class of the backends; a missing method is a kind of work it does not support.

    Subclasses implement `load` and any of the following. They take ids int32 `[B, P]` and the
    number of new tokens, and return the new ids `[B, new]`:

        decode(ids, new)              greedy
        sample(ids, new, top_p)       temperature 1
        beam(ids, new, beams)         the best sequence

    Args:
        folder: Checkpoint folder in transformers' format.
        variant: Variant such as `"float32"` or `"int8"`.
    """

    def __init__(self, folder: Path, variant: str) -> None:
        self.folder, self.variant = folder, variant

    def prepare(self) -> bool:
        """Convert the checkpoint once, for backends with their own format.

        Returns:
            Whether a conversion ran. The driver then restarts the backend, so that the conversion
            does not affect the measurements.
        """
        return False

    def load(self) -> None:
        """Load the model."""
        raise NotImplementedError


_TIMED = ("decode", "sample", "beam", "bare_loop")


def compiled() -> int:
    """XLA programs compiled by this process so far; 0 if dumping is off."""
    folder = os.environ.get(DUMP)
    return len(list(Path(folder).glob("*before_optimizations.txt"))) if folder else 0


def answer(backend: Backend, request: dict[str, Any]) -> dict[str, Any]:
    """Run one request."""
    what = request["do"]
    if what == "memory":
        return memory()
    if what == "prepare":
        return {"made": backend.prepare()}
    if what == "load":
        start = time.perf_counter()
        backend.load()
        return {"seconds": time.perf_counter() - start, **memory()}
    if what not in _TIMED:  # a backend's own kind of work, which it times itself
        return getattr(backend, what)(**{k: v for k, v in request.items() if k != "do"})
    ids = prompts(request["batch"], request["prompt"])
    extra = [request[name] for name in ("top_p", "beams") if name in request]
    method = getattr(backend, what)
    programs, start = compiled(), time.perf_counter()
    new = method(ids, request["new"], *extra)
    found = {"seconds": time.perf_counter() - start}
    found["compiled"] = compiled() - programs
    new = np.asarray(new)
    if new.shape != (request["batch"], request["new"]):
        raise ValueError(f"expected {(request['batch'], request['new'])} tokens, got {new.shape}")
    return found | ({"tokens": new.tolist()} if request.get("tokens") else {})


def serve(make: Callable[[Path, str], Backend], libraries: Sequence[str]) -> None:
    """Answer requests from standard input until `quit`.

    Args:
        make: Creates the backend from the checkpoint folder and the variant.
        libraries: Modules to import first, timed; the version of the first is reported.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--variant", default="float32")
    options = parser.parse_args()
    # Libraries may print to standard output, so answers use a duplicate of it.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    start = time.perf_counter()
    for name in libraries:
        importlib.import_module(name)
    hello = {"import_seconds": time.perf_counter() - start, "version": _version(libraries[0])}
    backend = make(options.model, options.variant)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        try:
            reply = hello | memory() if request["do"] == "hello" else answer(backend, request)
        except Exception as error:  # report any failure and keep serving
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def _version(module: str) -> str:
    """Version of a library, by module name."""
    name = module.split(".")[0]
    try:
        return version({"llama_cpp": "llama-cpp-python"}.get(name, name))
    except Exception:  # no distribution of that name
        return str(getattr(sys.modules[name], "__version__", "?"))
