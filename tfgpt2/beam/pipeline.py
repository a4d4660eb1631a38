"""A job of `tfgpt2 batch` as a pipeline: the same output files, on the workers of a runner.

    read windows of rows  ->  reshuffle  ->  process a window and write its file

An element is a window, so the files are those of a job on one machine, byte for byte, and an
interrupted pipeline goes on like that one. Workers must see the inputs, the model and the output
folder under the same paths.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from tfgpt2.batch.job import Job, JobReport
from tfgpt2.beam.handler import NAMESPACE
from tfgpt2.beam.sdk import Metrics, PipelineOptions, Shared, beam


class ReadWindows(beam.DoFn):
    """Yields the windows that are not done yet: their numbers and rows.

    Args:
        job: The arguments of `Job`.
    """

    def __init__(self, job: tuple[Any, ...]) -> None:
        self._job = job

    def process(self, _: None) -> Iterator[tuple[int, list[Any]]]:
        """Reads the input files in order."""
        job = Job(*self._job, load=False)
        for number, (rows, _) in enumerate(job.windows()):
            if job.is_mine(number):
                yield number, rows


class WriteWindow(beam.DoFn):
    """Processes a window and writes its output file.

    Args:
        job: The arguments of `Job`.
    """

    def __init__(self, job: tuple[Any, ...]) -> None:
        self._job, self._shared = job, Shared()

    def setup(self) -> None:
        """Loads the model once in each process."""
        self._loaded = self._shared.acquire(lambda: Job(*self._job))

    def process(self, window: tuple[int, list[Any]]) -> None:
        """Writes one file."""
        number, rows = window
        tokens = Metrics.counter(NAMESPACE, "tokens")
        errors = self._loaded.write(number, rows, lambda _, new: tokens.inc(new))
        for name, count in (("rows", len(rows)), ("errors", errors), ("files", 1)):
            Metrics.counter(NAMESPACE, name).inc(count)


def run_pipeline(job: tuple[Any, ...], runner: str, beam_options: Sequence[str] = ()) -> JobReport:
    """Runs a job on a runner of Beam and waits for its end.

    Args:
        job: The arguments of `Job`.
        runner: Name of the runner, such as `"DirectRunner"`.
        beam_options: Flags of the pipeline, such as `"--direct_num_workers=2"`.

    Returns:
        What this run did, as the counters of the workers say.

    Raises:
        ValueError: As `Job`.
        RuntimeError: A worker failed.
    """
    start, checked = time.monotonic(), Job(*job)  # errors show here, and not on a worker
    options = PipelineOptions([*beam_options, f"--runner={runner}"])
    pipeline = beam.Pipeline(options=options)
    _ = (
        pipeline
        | "Start" >> beam.Create([None])
        | "ReadWindows" >> beam.ParDo(ReadWindows(job))
        | "Reshuffle" >> beam.Reshuffle()
        | "WriteWindow" >> beam.ParDo(WriteWindow(job))
    )
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query()["counters"]
    found = {one.key.metric.name: one.result for one in counters}
    windows = rows = 0
    for window, _ in checked.windows():
        windows, rows = windows + 1, rows + len(window)
    names = ("files", "rows", "errors", "tokens")
    return JobReport(
        checked.folder.finish(windows, rows),
        *(found.get(name, 0) for name in names),
        seconds=time.monotonic() - start,
    )
