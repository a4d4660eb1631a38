"""Training throughput and peak memory against KerasHub and PyTorch transformers.

Each case runs in its own process, so that its peak memory can be measured; rounds are interleaved
across the cases, and the table shows the best round of each. The peak includes the libraries
(Python, TensorFlow or PyTorch).

    python benchmarks/training.py                # the 124M shape, T = 1024, B = 1 and 2
    python benchmarks/training.py --short        # a small shape, a few minutes
    python benchmarks/training.py --only tfgpt2 --batches 1 --types float32
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

HERE = Path(__file__).resolve().parent
SHAPES = {
    "124M": {"layers": 12, "width": 768, "heads": 12, "words": 50257, "length": 1024},
    "short": {"layers": 4, "width": 256, "heads": 4, "words": 8192, "length": 256},
    "long rows": {"layers": 3, "width": 192, "heads": 6, "words": 50257, "length": 1024},
}
OURS = {
    "tfgpt2 plain": (),
    "tfgpt2 chunked loss": ("chunked",),
    "tfgpt2 blockwise": ("blockwise",),
    "tfgpt2 checkpointing": ("checkpointing",),
    "tfgpt2 chunked + blockwise": ("chunked", "blockwise"),
    "tfgpt2 all three": ("chunked", "blockwise", "checkpointing"),
    "tfgpt2 plain, XLA": ("xla",),
}
OTHERS = {
    "KerasHub": (),
    "KerasHub, no XLA": ("no xla",),
    "PyTorch transformers": (),
    "PyTorch transformers, checkpointing": ("checkpointing",),
}
CASES = OURS | OTHERS

Step = Callable[[], object]


def tokens(shape: dict[str, int], batch: int) -> Any:
    """Random ids int64 `[B, T]`, the same for all cases."""
    import numpy as np

    return np.random.default_rng(0).integers(0, shape["words"], (batch, shape["length"]))


def tfgpt2_step(shape: dict[str, int], batch: int, dtype: str, features: tuple[str, ...]) -> Step:
    """A training step of this package."""
    import keras

    import tfgpt2

    config = tfgpt2.GPT2Config(
        n_layer=shape["layers"],
        n_embd=shape["width"],
        n_head=shape["heads"],
        vocab_size=shape["words"],
        n_positions=shape["length"],
        attn_implementation="blockwise" if "blockwise" in features else "eager",
    )
    model = tfgpt2.TFGPT2LMHeadModel(config, dtype=dtype)
    if "checkpointing" in features:
        model.gradient_checkpointing_enable()
    model.compile(
        keras.optimizers.AdamW(1e-4),
        chunked_loss="chunked" in features,
        jit_compile="xla" in features or "auto",
    )
    ids = tokens(shape, batch)
    return lambda: model.train_on_batch({"input_ids": ids, "labels": ids})


def keras_hub_step(
    shape: dict[str, int], batch: int, dtype: str, features: tuple[str, ...]
) -> Step:
    """A training step of KerasHub's GPT2CausalLM."""
    import keras
    import keras_hub
    import numpy as np

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=shape["words"],
        num_layers=shape["layers"],
        num_heads=shape["heads"],
        hidden_dim=shape["width"],
        intermediate_dim=4 * shape["width"],
        max_sequence_length=shape["length"],
        dtype=dtype,
    )
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None, dtype=dtype)
    model.compile(
        keras.optimizers.AdamW(1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False if "no xla" in features else "auto",
    )
    ids = tokens(shape, batch)
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    targets = np.roll(ids, -1, axis=1)
    return lambda: model.train_on_batch(inputs, targets)


def torch_step(shape: dict[str, int], batch: int, dtype: str, features: tuple[str, ...]) -> Step:
    """A training step of PyTorch transformers' GPT2LMHeadModel."""
    import torch
    import transformers

    config = transformers.GPT2Config(
        n_layer=shape["layers"],
        n_embd=shape["width"],
        n_head=shape["heads"],
        vocab_size=shape["words"],
        n_positions=shape["length"],
        use_cache=False,
    )
    model = transformers.GPT2LMHeadModel(config)
    model.train()
    if "checkpointing" in features:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    ids = torch.tensor(tokens(shape, batch))

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != "float32"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def peak_megabytes() -> float:
    """Peak resident memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_case(name: str, shape: str, batch: int, dtype: str, steps: int) -> None:
    """Run one case in this process and print its results as JSON."""
    if name.startswith("PyTorch"):
        import transformers  # noqa: F401

        make = torch_step
    elif name.startswith("KerasHub"):
        import keras_hub  # noqa: F401

        make = keras_hub_step
    else:
        import tfgpt2.models.causal_lm  # noqa: F401

        make = tfgpt2_step
    libraries = peak_megabytes()
    step = make(SHAPES[shape], batch, dtype, CASES[name])
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    print(
        json.dumps(
            {
                "tokens_per_second": batch * SHAPES[shape]["length"] / statistics.median(times),
                "first_step_seconds": first,
                "peak_mb": peak_megabytes(),
                "libraries_mb": libraries,
            }
        )
    )


def child(name: str, shape: str, batch: int, dtype: str, steps: int) -> dict[str, Any]:
    """Run one case in its own process."""
    arguments = ["--case", name, "--shape", shape, "--batches", str(batch), "--types", dtype]
    result = subprocess.run(
        [sys.executable, __file__, *arguments, "--steps", str(steps)],
        capture_output=True,
        text=True,
    )
    if result.returncode:
        return {"error": (result.stderr.strip().split("\n") or ["?"])[-1]}
    return json.loads(result.stdout.strip().split("\n")[-1])


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all cases in interleaved rounds; return the best round of each."""
    best: dict[tuple[str, int, str], dict[str, Any]] = {}
    for round_number in range(options.rounds):
        for batch in options.batches:
            for dtype in options.types:
                for name in CASES:
                    if not name.startswith(tuple(options.only)):
                        continue
                    found = child(name, options.shape, batch, dtype, options.steps)
                    key = (name, batch, dtype)
                    old = best.get(key, {"tokens_per_second": 0.0, "peak_mb": float("inf")})
                    if "error" in found:
                        best.setdefault(key, found)
                        continue
                    found["tokens_per_second"] = max(
                        found["tokens_per_second"], old.get("tokens_per_second", 0.0)
                    )
                    best[key] = found
                    print(
                        f"round {round_number + 1}: {name}, B {batch}, {dtype}:"
                        f" {found['tokens_per_second']:.0f} tok/s, {found['peak_mb']:.0f} MB",
                        file=sys.stderr,
                    )
    return [
        {"case": name, "batch": batch, "dtype": dtype, **found}
        for (name, batch, dtype), found in best.items()
    ]


def show(results: list[dict[str, Any]]) -> None:
    """Print the table, with ratios to KerasHub's default settings."""
    for batch, dtype in sorted({(r["batch"], r["dtype"]) for r in results}):
        group = [r for r in results if (r["batch"], r["dtype"]) == (batch, dtype)]
        base = next((r for r in group if r["case"] == "KerasHub" and "error" not in r), None)
        print(f"\nB {batch}, {dtype}")
        print(f"{'':38s} {'tok/s':>8s} {'ratio':>6s} {'peak MB':>9s} {'ratio':>6s} {'first s':>8s}")
        for r in group:
            if "error" in r:
                print(f"{r['case']:38s} {r['error']}")
                continue
            speed = r["tokens_per_second"] / base["tokens_per_second"] if base else float("nan")
            memory = r["peak_mb"] / base["peak_mb"] if base else float("nan")
            print(
                f"{r['case']:38s} {r['tokens_per_second']:8.0f} {speed:6.2f}"
                f" {r['peak_mb']:9.0f} {memory:6.2f} {r['first_step_seconds']:8.1f}"
            )


def pipeline(seconds: float = 2.0) -> dict[str, float]:
    """Throughput of the data pipeline alone, in tokens per second."""
    import tensorflow as tf

    import tfgpt2
    from tfgpt2.training import data

    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    text = "Now is the winter of our discontent\nMade glorious summer by this sun of York;\n\n"
    start = time.perf_counter()
    corpus = data.tokenize_corpus([text * 40] * 500, tokenizer)
    found = {"tokenizing": len(corpus) / (time.perf_counter() - start)}
    for name, mask in (("blocks", False), ("blocks with document mask", True)):
        dataset = data.lm_dataset(corpus, None, 1024, 8, document_mask=mask, epochs=None)
        iterator, count = iter(dataset), 0
        next(iterator)
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            count += int(tf.size(next(iterator)["input_ids"]))
        found[name] = count / (time.perf_counter() - start)
    return found


def main() -> None:
    """Run the benchmark, or one case of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="a small shape, fewer cases")
    parser.add_argument("--shape", choices=SHAPES, default="124M")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--types", nargs="+", default=["float32", "mixed_bfloat16"])
    parser.add_argument("--only", nargs="+", default=[""], help="prefixes of case names")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "training.json")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        run_case(options.case, options.shape, options.batches[0], options.types[0], options.steps)
        return
    if options.short:
        options.shape, options.batches, options.rounds = "short", [2], 1
    results, speeds = compare(options), pipeline()
    show(results)
    print("\ndata pipeline alone, tokens per second")
    for name, speed in speeds.items():
        print(f"{name:38s} {speed:12,.0f}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "shape": SHAPES[options.shape],
        "machine": platform.processor(),
        "cpus": os.cpu_count(),
    }
    options.output.write_text(
        json.dumps(about | {"results": results, "pipeline": speeds}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
