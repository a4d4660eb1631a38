"""The self-check of a LiteRT export: the runtime in a clean process must give the live answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfgpt2.errors import explain
from tfgpt2.litert.contract import MASKED, Contract

_PROGRAM = Path(__file__).with_name("probe.py")
# Largest root mean square of the difference, in standard deviations of the outputs.
_TOLERANCES = {None: 1e-3, "float16": 2e-2, "int8": 0.25, "int4": 0.6}

Call = tuple[str, Mapping[str, np.ndarray]]  # signature and inputs, without the cache


def check(
    model: Path,
    runs: list[list[Call]],
    expected: list[Mapping[str, np.ndarray]],
    quantize: str | None,
) -> float:
    """Runs a file in a process that imports NumPy and ai-edge-litert only, and compares.

    Args:
        model: The `.tflite` file.
        runs: Calls that share a cache.
        expected: Outputs of the last call of each run; NaN is not compared.
        quantize: How the matrices are stored.

    Returns:
        The largest root mean square of a difference, in standard deviations of the output.

    Raises:
        RuntimeError: The process fails, or an output differs too much.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = _run(model, runs, Path(folder))
    worst = 0.0
    for number, (calls, outputs) in enumerate(zip(runs, expected, strict=True)):
        for name, live in outputs.items():
            other = found.get(f"{number}/{name}")
            difference = np.inf
            if other is not None and other.shape == live.shape and np.all(np.isfinite(other)):
                some = np.isfinite(live)
                spread = max(float(np.std(live[some])), 1e-6)
                difference = float(np.sqrt(np.mean(np.square(other - live)[some]))) / spread
            worst = max(worst, difference)
            if not difference <= _TOLERANCES[quantize]:
                raise RuntimeError(
                    explain(
                        f"The exported signature {calls[-1][0]!r} does not compute what the model"
                        " does; nothing was written.",
                        fix="Please report this with the versions of tensorflow, ai-edge-litert"
                        " and tfgpt2.",
                        output=name,
                        difference=difference,
                        allowed=_TOLERANCES[quantize],
                    )
                )
    return worst


def _run(model: Path, runs: list[list[Call]], folder: Path) -> dict[str, np.ndarray]:
    """Runs the program and returns its outputs."""
    arrays, jobs = {}, []
    for number, calls in enumerate(runs):
        jobs.append([])
        for place, (signature, inputs) in enumerate(calls):
            keys = {name: f"{number}/{place}/{name}" for name in inputs}
            arrays |= {keys[name]: value for name, value in inputs.items()}
            jobs[-1].append({"signature": signature, "inputs": keys})
    paths = {name: str(folder / f"{name}.npz") for name in ("inputs", "outputs")}
    np.savez(paths["inputs"], **arrays)
    safe = ["-P"] if sys.version_info >= (3, 11) else []  # not even the folder of the program
    done = subprocess.run(
        [sys.executable, *safe, str(_PROGRAM)],
        input=json.dumps({"model": str(model), "runs": jobs, **paths}),
        capture_output=True,
        text=True,
        env={**os.environ},
    )
    if done.returncode:
        raise RuntimeError(
            explain(
                "The exported file does not run in a clean process; nothing was written.",
                fix="Run: pip install 'tfgpt2[litert]'"
                if "No module named" in done.stderr
                else "Please report this with the versions of tensorflow and ai-edge-litert.",
                error=done.stderr.strip()[-190:],  # the end is what matters
            )
        )
    with np.load(paths["outputs"]) as outputs:
        return dict(outputs)


def probe_runs(contract: Contract) -> list[tuple[list[Call], np.ndarray, np.ndarray]]:
    """Calls that use every signature, and the texts that they read.

    Args:
        contract: The contract.

    Returns:
        For each run its calls, and right-aligned ids and mask int32 `[B, M]` of what was read; the
        outputs of the last call are `logits` of the token after the texts, or `logprobs` of their
        tokens but the first.
    """
    random, rows, runs = np.random.default_rng(0), contract.batch_size, []

    def text(columns: int) -> tuple[np.ndarray, np.ndarray]:
        ids = random.integers(0, contract.vocab_size, [rows, columns], np.int32)  # [B, M]
        first = np.arange(rows)[:, None] % max(1, columns // 2)  # rows of different lengths
        mask = (np.arange(columns) >= first).astype(np.int32)
        return ids * mask, mask

    def call(name: str, size: int, ids: np.ndarray, mask: np.ndarray, begin: int, length: int,
             **more: np.ndarray) -> Call:  # fmt: skip
        chunk = np.zeros([rows, length], np.int32)
        part = ids[:, begin : begin + length]
        chunk[:, : part.shape[1]] = part
        queries = begin + np.arange(length, dtype=np.int32)
        valid = np.ones([rows, size], bool)
        valid[:, : mask.shape[1]] = mask
        seen = (np.arange(size) <= queries[:, None]) & valid[:, None]  # [B, T, S]
        added = np.where(seen, np.float32(0), np.float32(MASKED))[:, None]
        return name, {"tokens": chunk, "input_pos": queries, "mask": added, **more}

    for size in contract.cache_sizes:
        decode = contract.signature("decode", size)
        for length in contract.prefill_sizes(size) or (0,):
            last = min(length, size - 1)
            ids, mask = text(last + 1)
            calls = [call(decode, size, ids, mask, last, 1)]
            if length:
                name = contract.signature(f"prefill_{length}", size)
                calls.insert(0, call(name, size, ids[:, :last], mask[:, :last], 0, length))
            runs.append((calls, ids, mask))
    length = contract.score
    ids, mask = text(min(length, contract.context))
    targets = np.zeros([rows, length], np.int32)
    targets[:, : ids.shape[1] - 1] = ids[:, 1:]
    scored = call(f"score_{length}", contract.context, ids, mask, 0, length, targets=targets)
    runs.append(([scored], ids, mask))
    return runs
