"""`tfgpt2 batch` against the bare decode loop and against a loop over `generate`.

    python benchmarks/batch.py                     # the 124M shape and the bundled model
    python benchmarks/batch.py --memory 1000000    # resident memory over a million short rows
    python benchmarks/batch.py --tiny              # seconds, to try the program

`bare loop`: `CompiledDecoder.run` on ready ids, at each batch size, its result discarded. `job`:
prompts from a file to files: reading, tokenizing, sorting, writing and fsync included.
`generate by 8`: `TextGenerator.generate` in the order of the input, as a user's loop would.
Models are loaded and programs compiled before, by a run of the same shapes. All rows
get the same number of new tokens and none ends early. Rounds are interleaved; the table
has the best of each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import tensorflow as tf

import tfgpt2
from tfgpt2.batch.job import Job, run
from tfgpt2.batch.settings import JobSettings
from tfgpt2.batch.tasks.generate import Generate
from tfgpt2.batch.tasks.text_scoring import Score

WORDS = "what say you of the king and his men my lord I pray thee speak no more of it".split()


def texts(rows: int, lengths: list[int], seed: int = 0) -> list[str]:
    """Texts of random words, with numbers of words drawn from a list."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.choice(lengths))) for _ in range(rows)]


def write(path: Path, lines: list[str]) -> Path:
    """Writes texts as JSON Lines."""
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def settings_of(new: int) -> dict[str, int | float]:
    """Settings under which each row gets exactly so many tokens."""
    return {"max_new_tokens": new, "min_new_tokens": new, "temperature": 0.0}


class BareLoop:
    """The decode loop on ready ids."""

    def __init__(self, generator, lines: list[str], new: int) -> None:
        self.pipeline, self.tokens = generator.pipeline, len(lines) * new
        values = generator.generation_config.updated(
            max_new_tokens=new, min_new_tokens=new
        ).request_values()
        known = {name: tf.fill([len(lines)], tf.cast(value, tfgpt2_dtype(name)))
                 for name, value in values.items()}  # fmt: skip
        known["seed"] = tf.zeros([len(lines)], tf.int64)
        encoded = self.pipeline.encode_eagerly(
            tf.constant(lines), known, tf.fill([len(lines), 1], "")
        )
        self.request = self.pipeline.make_request(encoded)

    def __call__(self) -> float:
        """Runs it once; tokens per second."""
        start = time.perf_counter()
        count = self.pipeline.run(self.request).count.numpy().sum()
        assert count == self.tokens, count
        return self.tokens / (time.perf_counter() - start)


def tfgpt2_dtype(name: str) -> str:
    """The type of a setting."""
    from tfgpt2.generation.options import REQUEST_OPTIONS

    return REQUEST_OPTIONS[name].dtype


class JobLoop:
    """A job from a file to files."""

    def __init__(self, model: str, source: Path, new: int, batch_size: int, folder: Path) -> None:
        self.output = folder / f"out-{source.stem}-{batch_size}"
        settings = JobSettings(batch_size=batch_size)
        self.job = Job(Generate(settings_of(new)), [source], self.output, model, settings)

    def __call__(self) -> float:
        """Runs it once; tokens per second."""
        for part in self.output.glob("part-*"):
            part.unlink()
        start = time.perf_counter()
        report = run(self.job)
        assert not report.errors
        return report.tokens / (time.perf_counter() - start)


class GenerateLoop:
    """A loop over `generate` with batches of 8 in the order of the input."""

    def __init__(self, generator, source: Path, new: int, folder: Path) -> None:
        self.generator, self.source, self.new = generator, source, new
        self.output = folder / "loop.jsonl"

    def __call__(self) -> float:
        """Runs it once; tokens per second."""
        start, tokens = time.perf_counter(), 0
        rows = [json.loads(line) for line in self.source.read_text().splitlines()]
        with self.output.open("w") as file:
            for i in range(0, len(rows), 8):
                part = rows[i : i + 8]
                found = self.generator.generate(
                    [row["text"] for row in part], details=True, **settings_of(self.new)
                )
                for row, one in zip(part, found, strict=True):
                    tokens += len(one.token_ids)
                    file.write(json.dumps(row | {"generated_text": one.text}) + "\n")
        return tokens / (time.perf_counter() - start)


def speed(name: str, model: str, arguments: argparse.Namespace, folder: Path) -> None:
    """Prints the table of one model."""
    new, rows = arguments.new, arguments.rows
    generator = tfgpt2.TextGenerator.from_pretrained(model)
    context = generator.model.config.n_positions
    same = write(folder / "same.jsonl", texts(rows, [12]))
    most = max(8, min(context - new, 256) // 2)
    mixed = write(folder / "mixed.jsonl", texts(rows, [3, 5, 8, 12, 20, 40, most // 2, most]))
    best = max(arguments.batch_sizes)
    runs = {f"bare loop, {size} rows": BareLoop(generator, texts(size, [12]), new)
            for size in arguments.batch_sizes}  # fmt: skip
    for size in arguments.batch_sizes:
        runs[f"job, prompts of one length, {size} rows"] = JobLoop(model, same, new, size, folder)
    runs[f"job, mixed lengths, {best} rows"] = JobLoop(model, mixed, new, best, folder)
    runs["generate by 8, mixed lengths"] = GenerateLoop(generator, mixed, new, folder)
    for one in runs.values():
        one()
    found: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(arguments.rounds):
        for key, one in runs.items():
            found[key].append(one())
    print(f"\n{name}: {rows} rows, {new} new tokens each, best of {arguments.rounds} rounds")
    print("| | tokens/s |\n|---|---|")
    for key, speeds in found.items():
        print(f"| {key} | {max(speeds):,.0f} |")
    top = {kind: max(max(v) for k, v in found.items() if k.startswith(kind))
           for kind in ("bare loop", "job, prompts", "job, mixed", "generate")}  # fmt: skip
    print(f"job / bare loop, each at its best: {top['job, prompts'] / top['bare loop']:.2f}")
    print(f"job / generate by 8, mixed lengths: {top['job, mixed'] / top['generate']:.2f}")


def random_model(folder: Path, **config: int) -> str:
    """A checkpoint with random weights and the bundled tokenizer; by default the 124M shape."""
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    model = tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config(**config))
    tfgpt2.TextGenerator(model, tokenizer).save_pretrained(folder / "model")
    return str(folder / "model")


def memory(rows: int, folder: Path) -> None:
    """Prints the resident memory while a job of many short rows runs.

    The model is tiny: what may grow with the rows is the job.
    """
    import psutil

    with (folder / "short.txt").open("w") as file:
        for start in range(0, rows, 1000):
            file.write("\n".join(texts(min(1000, rows - start), [1, 2, 3], start)) + "\n")
    settings = JobSettings(batch_size=256, rows_per_file=4096)
    model = random_model(folder, vocab_size=1024, n_embd=16, n_layer=1, n_head=1, n_positions=64)
    job = Job(Score(), [folder / "short.txt"], folder / "scores", model, settings)
    process, done, write_window = psutil.Process(), 0, job.write
    print("\n| rows | resident MB |\n|---|---|")

    def watched(number, window, on_batch):
        nonlocal done
        failed, before = write_window(number, window, on_batch), done
        done += len(window)
        if done == rows or done * 10 // rows > before * 10 // rows:
            print(f"| {done:,} | {process.memory_info().rss / 1e6:,.0f} |", flush=True)
        return failed

    job.write = watched
    report = run(job)
    print(f"{report.rows:,} rows in {report.seconds:,.0f} s: {report.rows / report.seconds:,.0f}/s")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the bundled model, few rows")
    parser.add_argument("--memory", type=int, metavar="ROWS", help="memory instead of speed")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32, 64])
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.rows, arguments.new, arguments.rounds = 32, 8, 1
        arguments.batch_sizes = [4, 8]
    folder = Path(tempfile.mkdtemp())
    try:
        print(f"TensorFlow {tf.__version__}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
        if arguments.memory:
            memory(arguments.memory, folder)
            return
        speed("shakespeare-tiny", "shakespeare-tiny", arguments, folder)
        if not arguments.tiny:
            shutil.rmtree(folder)
            folder.mkdir()
            speed("124M shape", random_model(folder), arguments, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
