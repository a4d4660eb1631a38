"""Compare this package with other GPT-2 implementations on one random 124M checkpoint.

    python benchmarks/compare.py                        # 20 minutes at most
    python benchmarks/compare.py --short                # 5 minutes, the main cases
    python benchmarks/compare.py --only decode-1 llama  # some cases or rows, and the baseline
    python benchmarks/compare.py --resume               # only what the last run did not reach
    python benchmarks/compare.py --sizes                # gpt2 to gpt2-xl, this package only

Each backend runs in its own process and virtual environment, with two threads. A case is warmed up
first and its tokens are compared. The timed rounds are interleaved across backends, so a slowdown
of the machine affects all of them. Results are saved after every round, so a crash or an interrupt
loses nothing. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cases as work
import checkpoint
import environments
import report
import roofline
from cases import BASELINE, Case, Row
from workers import BackendError, Worker, free_gigabytes

HERE = Path(__file__).resolve().parent
MODELS = HERE / ".models"
LEAST_ROUNDS = 2
SCARCE = 4.0  # GB; with less free memory, workers that a case does not need are stopped
TINY = checkpoint.CONFIG | {"n_layer": 2, "n_embd": 64, "n_head": 4}


class Results:
    """Results of a run, saved as JSON.

    Args:
        path: The file, replaced atomically.
        resume: Whether to continue from its contents.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        if path.exists() and not resume:
            path.replace(path.with_name("results.before.json"))  # keep the previous run
        self.data: dict[str, Any] = {"about": {}, "rates": [], "imports": {}, "rows": {},
                                     "cases": {}}  # fmt: skip
        if resume and path.exists():
            self.data |= json.loads(path.read_text())

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.data, indent=1) + "\n")
        part.replace(self.path)

    def entry(self, case: Case, row: Row) -> dict[str, Any]:
        """The record of a row in a case."""
        found = self.data["cases"].setdefault(
            case.name, {"title": case.title, "unit": case.unit, "rows": {}}
        )
        return found["rows"].setdefault(row.name, {"values": []})

    def reached(self, case: Case, row: Row) -> bool:
        """Whether a row was measured in a case, or failed there."""
        rows = self.data["cases"].get(case.name, {}).get("rows", {})
        found = rows.get(row.name, {})
        return bool(found.get("values") or found.get("error"))


class WorkerPool:
    """The worker processes of the rows, started on first use.

    Args:
        folder: Checkpoint folder.
        results: Receives import and loading times.
        seconds: Timeout of an answer.
        here: Folder of the backends' files.
        count: Whether to count compiled XLA programs.
    """

    def __init__(
        self,
        folder: Path,
        results: Results,
        *,
        seconds: float,
        here: Path = HERE / "backends",
        count: bool = False,
    ) -> None:
        self.folder, self.results, self.seconds = folder, results, seconds
        self.here, self.count = here, count
        self._workers: dict[tuple[str, str, str], Worker] = {}

    def get(self, row: Row) -> Worker:
        """The running worker of a row.

        Raises:
            BackendError: The worker does not start, or the model does not load.
        """
        worker = self._workers.get(row.worker)
        if worker is not None and worker.alive:
            return worker
        worker = self._start(row)
        if worker.send({"do": "prepare"})["made"]:
            worker.close()
            worker = self._start(row)
            worker.send({"do": "prepare"})  # finds the converted files
        loaded = worker.send({"do": "load"})
        known = self.results.data["rows"].setdefault(row.name, {})
        known.setdefault("load", loaded)
        self._workers[row.worker] = worker
        return worker

    def _start(self, row: Row) -> Worker:
        variables = {"TFGPT2_BENCH_DUMP": tempfile.mkdtemp()} if self.count else {}
        worker = Worker(
            [environments.interpreter(row.environment), self.here / row.file,
             "--model", self.folder, "--variant", row.variant],
            self.results.path.parent / "logs" / f"{Path(row.file).stem}-{row.variant}.log",
            self.seconds,
            variables,
        )  # fmt: skip
        try:
            hello = worker.send({"do": "hello"})
        except BackendError:
            worker.close()
            raise
        known = self.results.data["rows"].setdefault(row.name, {})
        known |= {"version": hello["version"], "libraries_mb": hello["rss_mb"]}
        known.setdefault("import_seconds", hello.get("import_seconds"))
        return worker

    def keep(self, rows: Iterable[Row]) -> None:
        """Stop all workers except those of some rows."""
        kept = {row.worker for row in rows}
        for key in [key for key in self._workers if key not in kept]:
            self._workers.pop(key).close()

    def close(self) -> None:
        """Stop all workers."""
        self.keep([])


class Comparison:
    """Run cases in order, each in interleaved rounds over all rows.

    Args:
        pool: The workers.
        results: Receives the measurements.
        rounds: Rounds per case, if time allows.
        end: Deadline on the clock of `time.monotonic`.
        note: Called with progress messages.
    """

    def __init__(
        self, pool: WorkerPool, results: Results, *, rounds: int, end: float, note: Any = print
    ) -> None:
        self.pool, self.results, self.rounds, self.end = pool, results, rounds, end
        self.note = note

    def run(self, rows: list[Row], cases: list[Case]) -> list[str]:
        """Run cases on rows; return the names of the cases skipped for lack of time."""
        left_out = []
        for number, case in enumerate(cases):
            taking = [row for row in rows if case.takes(row)]
            if all(self.results.reached(case, row) for row in taking):
                continue  # measured by the resumed run
            now = time.monotonic()
            if now >= self.end:
                left_out.append(case.name)
                continue
            later = [row for row in rows if any(c.takes(row) for c in cases[number:])]
            self.pool.keep(taking if free_gigabytes() < SCARCE else later)
            self.measure(case, taking, 1.5 / (len(cases) - number))
        return left_out

    def measure(self, case: Case, rows: list[Row], share: float) -> None:
        """Warm up all rows, compare their tokens, and measure in rounds.

        Args:
            case: The workload.
            rows: Rows that take part.
            share: Fraction of the remaining time this case may use after the warm-up.
        """
        for row in rows:
            for measured in (case, case.base_is):
                if measured is not None:
                    entry = self.results.entry(measured, row)
                    entry.clear()
                    entry["values"] = []
        ready = [row for row in rows if self._warm_up(case, row)]
        self._compare(case, ready)
        self.results.save()
        now = time.monotonic()
        end = now + min(1.0, share) * (self.end - now)
        for number in range(self.rounds):
            if number >= LEAST_ROUNDS and time.monotonic() > end:
                break
            # Rotate the order, so that no row always follows the same one.
            turn = number % max(1, len(ready))
            for row in [*ready[turn:], *ready[:turn]]:
                if not self._measure(case, row):
                    ready = [other for other in ready if other is not row]
            self.results.data["rates"].append(dataclasses.asdict(roofline.measure(repeats=2)))
            self.results.save()
            self.note(f"{case.name}: round {number + 1}, {len(ready)} rows")

    def _warm_up(self, case: Case, row: Row) -> bool:
        """Time the first call of a row in a case and keep its tokens; False if it failed."""
        entry = self.results.entry(case, row)
        self.note(f"{case.name}: {row.name}")
        try:
            worker = self.pool.get(row)
            extra = {} if case.do in _OWN else {"tokens": True}
            first = worker.send(case.request_for(row) | extra)
            entry["first_seconds"] = first["seconds"]
            entry["tokens"] = first.get("tokens")
            if case.base is not None:
                worker.send(case.request_for(row, base=True))
            known = self.results.data["rows"].setdefault(row.name, {})
            if "peak_mb" not in known:
                known["peak_mb"] = worker.send({"do": "memory"})["peak_mb"]
        except BackendError as error:
            return self._failed(case, row, error)
        return True

    def _measure(self, case: Case, row: Row) -> bool:
        """Measure a row once; False if it failed."""
        entry = self.results.entry(case, row)
        try:
            worker = self.pool.get(row)
            full = worker.send(case.request_for(row))
            base = worker.send(case.request_for(row, base=True)) if case.base is not None else {}
        except BackendError as error:
            return self._failed(case, row, error)
        entry["values"].append(case.value(full["seconds"], base.get("seconds")))
        if case.base_is is not None:
            kept = self.results.entry(case.base_is, row)
            kept["values"].append(base["seconds"] * 1e3)
        entry["compiled_again"] = entry.get("compiled_again", 0) + sum(
            answer.get("compiled", 0) for answer in (full, base)
        )
        return True

    def _failed(self, case: Case, row: Row, error: BackendError) -> bool:
        self.results.entry(case, row)["error"] = str(error)
        self.note(f"{case.name}: {row.name} failed: {error}")
        self.results.save()
        return False

    def _compare(self, case: Case, rows: Iterable[Row]) -> None:
        """Count the tokens that equal the baseline's, and drop the tokens."""
        found = {row.name: self.results.entry(case, row).pop("tokens", None) for row in rows}
        expected = found.get(BASELINE)
        for row in rows:
            tokens = found[row.name]
            if case.do == "sample" or not tokens or not expected or row.name == BASELINE:
                continue
            pairs = [
                a == b
                for ours, theirs in zip(expected, tokens, strict=True)
                for a, b in zip(ours, theirs, strict=True)
            ]
            same = sum(pairs)
            entry = self.results.entry(case, row)
            entry["same_tokens"], entry["all_tokens"] = same, len(pairs)
            if row.exact and same < len(pairs):
                self.note(f"{case.name}: {row.name}: only {same} of {len(pairs)} tokens agree")


_OWN = ("buffer", "texts")  # kinds of work that a backend times itself


def measure_imports(results: Results, rounds: int, usable: set[str]) -> None:
    """Time imports, each in a new process."""
    code = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
    variables = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}
    for number in range(rounds + 1):  # the first round fills the file cache
        for name, environment, program in work.IMPORTS:
            if environment not in usable:
                continue
            here = variables
            if environment != "transformers4":
                here = {k: v for k, v in variables.items() if k != "TF_USE_LEGACY_KERAS"}
            done = subprocess.run(
                [environments.interpreter(environment), "-c", code.format(program)],
                capture_output=True, text=True, env=here | {"KERAS_BACKEND": "tensorflow"},
            )  # fmt: skip
            if done.returncode == 0 and number:
                seconds = float(done.stdout.strip().splitlines()[-1])
                results.data["imports"].setdefault(name, []).append(seconds)
        results.save()


def measure_sizes(results: Results, pool: WorkerPool, rounds: int, note: Any = print) -> None:
    """Time decode steps of the published model sizes, one process at a time."""
    for name in work.SIZES:
        row = Row(name, environments.OWN, "tfgpt2_model.py", name, (("decode", "decode"),))
        end = time.monotonic() + 60
        comparison = Comparison(pool, results, rounds=rounds, end=end, note=note)
        comparison.measure(work.SIZES_CASE, [row], 1.0)
        pool.close()  # free the memory for the next size


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Machine, commit and mode of a run."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True
    ).stdout.strip()
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.machine(),
    )  # fmt: skip
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit,
        "processor": model,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
        "mode": "tiny" if options.tiny else "short" if options.short else "full",
    }


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="fewer rows, cases and rounds")
    parser.add_argument(
        "--only", nargs="+", default=[], help="case names, or substrings of row names"
    )
    parser.add_argument("--resume", action="store_true", help="continue the last run")
    parser.add_argument("--minutes", type=float, help="time budget; default 18, short 4")
    parser.add_argument("--rounds", type=int, help="rounds per case; default 7, short 3")
    parser.add_argument(
        "--timeout", type=float, default=300, help="timeout of an answer in seconds"
    )
    parser.add_argument("--sizes", action="store_true", help="gpt2 to gpt2-xl, tfgpt2 only")
    parser.add_argument("--tiny", action="store_true", help="a toy model, to try this script")
    parser.add_argument("--count-programs", action="store_true",
                        help="count XLA compilations in timed calls")  # fmt: skip
    parser.add_argument("--no-imports", action="store_true", help="skip the import times")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    options.minutes = options.minutes or (4.1 if options.short else 18)
    options.rounds = options.rounds or (3 if options.short else 7)
    return options


def main() -> None:
    """Run the comparison."""
    options = read_arguments()
    name = "tiny" if options.tiny else "gpt2-124m"
    folder = checkpoint.write(
        MODELS / name / "checkpoint", TINY if options.tiny else checkpoint.CONFIG
    )
    if options.sizes:
        options.output = options.output / "sizes"  # beside the comparison
    results = Results(options.output / "results.json", resume=options.resume)
    results.data["about"] = about(options)
    rows, cases = work.chosen(options.only, short=options.short)
    if all(row.name != BASELINE for row in rows):
        rows = [next(row for row in work.ROWS if row.name == BASELINE), *rows]
    needed = {row.environment for row in rows}
    failed = environments.ensure(sorted(needed))
    for reason in failed.values():
        print(f"skipped {reason}", file=sys.stderr)
    rows = [row for row in rows if row.environment not in failed]
    results.data["left_out"] = {"environments": failed}
    start = time.monotonic()  # creating environments does not count
    pool = WorkerPool(folder, results, seconds=options.timeout, count=options.count_programs)
    note = lambda line: print(f"{time.monotonic() - start:6.0f} s  {line}", file=sys.stderr)  # noqa: E731
    try:
        if options.sizes:
            measure_sizes(results, pool, options.rounds, note)
        else:
            if not (options.only or options.short or options.no_imports or results.data["imports"]):
                measure_imports(results, 3, needed - set(failed))
                note("imports")
            comparison = Comparison(pool, results, rounds=options.rounds,
                                    end=start + 60 * options.minutes, note=note)  # fmt: skip
            results.data["left_out"]["cases"] = comparison.run(rows, cases)
    except KeyboardInterrupt:
        print("interrupted; the results so far are saved", file=sys.stderr)
    finally:
        pool.close()
        results.save()
    report.write(results.data, options.output)


if __name__ == "__main__":
    main()
