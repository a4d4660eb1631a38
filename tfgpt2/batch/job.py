"""`run_job`: files in, files out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from rich.console import Console

from tfgpt2.batch.engine import InputRow, process
from tfgpt2.batch.formats.registry import WRITERS
from tfgpt2.batch.inputs import Inputs, open_inputs
from tfgpt2.batch.models import BatchModel
from tfgpt2.batch.output import OutputFolder
from tfgpt2.batch.progress import JobProgress
from tfgpt2.batch.settings import JobSettings
from tfgpt2.batch.tasks.base import ERROR, Task
from tfgpt2.errors import value_error
from tfgpt2.version import __version__


@dataclasses.dataclass(frozen=True)
class JobReport:
    """What a run of a job did.

    Attributes:
        complete: Whether all output files are there; otherwise other shards are still running.
        files: Output files that this run wrote.
        rows: Rows in those.
        errors: Rows of those that have an error.
        tokens: Tokens that were generated or scored.
        seconds: Wall time, without loading the model.
    """

    complete: bool
    files: int
    rows: int
    errors: int
    tokens: int
    seconds: float


class Job:
    """A job whose inputs, model and output folder were checked and belong together.

    Args:
        task: What to do with each row.
        inputs: Files or patterns.
        output: The output folder.
        model: A bundled name, a directory of a checkpoint or of an export, or a hub name.
        settings: The other settings.
        load: Whether to load the model and to claim the output folder; else rows are only read.

    Raises:
        FileNotFoundError: There is no such file or model.
        FileExistsError: The output folder holds other files.
        ValueError: A column is unknown, the input files do not fit together, or the output folder
            is of another job.
    """

    def __init__(
        self,
        task: Task,
        inputs: Iterable[str | os.PathLike[str]],
        output: str | os.PathLike[str],
        model: str,
        settings: JobSettings,
        *,
        load: bool = True,
    ) -> None:
        self.task, self.settings, writer = task, settings, WRITERS[settings.format]
        self.inputs: Inputs = open_inputs(
            [Path(one) for one in inputs], [settings.text_column, *task.columns.values()]
        )
        self._check_names()
        self.folder = OutputFolder(Path(output), writer)
        if not load:
            return
        self.folder.check_free()
        first = self._first_rows() if settings.format == "parquet" else []
        types = {settings.result_prefix + n: kind for n, kind in self._result_types().items()}
        self.schema = writer.schema(first, types, self.inputs.files)
        self.model: BatchModel = task.load(str(model), jit_compile=settings.jit_compile)
        self.folder.claim(self._identity(str(model)))

    def windows(self) -> Iterator[tuple[list[InputRow], int]]:
        """The rows of each output file, and the bytes of the inputs that were read so far."""
        return self.inputs.windows(self.settings.rows_per_file)

    def is_mine(self, number: int) -> bool:
        """Whether a window is of this shard, and not done yet."""
        index, count = self.settings.shard_numbers
        return number % count == index and not self.folder.file(number).exists()

    def write(self, number: int, rows: Sequence[InputRow], on_batch: Any) -> int:
        """Processes a window and writes its file; returns the number of rows with an error.

        Raises:
            ValueError: A row has an error, and the job is to stop.
        """
        prefix = self.settings.result_prefix
        rows = [self._fit(row) for row in rows]
        results = process(
            self.task,
            self.model,
            rows,
            text_column=self.settings.text_column,
            batch_size=self.settings.batch_size,
            on_batch=on_batch,
        )
        failed = [i for i, result in enumerate(results) if result[ERROR]]
        if failed and self.settings.on_error == "stop":
            raise value_error(
                "A row has an error.",
                fix="Correct it, or record errors in their rows: on_error='record'.",
                row=rows[failed[0]].place,
                error=results[failed[0]][ERROR],
            )
        joined = [
            {**row.columns, **{prefix + name: value for name, value in result.items()}}
            for row, result in zip(rows, results, strict=True)
        ]
        self.folder.write(number, joined, self.schema)
        return len(failed)

    def _fit(self, row: InputRow) -> InputRow:
        """A row whose columns the output has a place for; the others become an error."""
        results = {self.settings.result_prefix + name for name in self._result_types()}
        wrong = [name for name in row.columns if name in results]
        if not wrong:
            wrong = self.folder.writer.misfits(row.columns, self.schema)
        if not wrong:
            return row
        columns = {name: value for name, value in row.columns.items() if name not in wrong}
        problem = f"{row.place}: no place in the output for {', '.join(wrong)}."
        return row._replace(columns=columns, error=row.error or problem)

    def _result_types(self) -> dict[str, str]:
        return {**self.task.result_types, ERROR: "string"}

    def _check_names(self) -> None:
        """Refuses input columns that have the name of a result column."""
        prefix = self.settings.result_prefix
        taken = [prefix + n for n in self._result_types() if prefix + n in self.inputs.columns]
        if taken:
            raise value_error(
                "The input has a column with the name of a result column.",
                fix="Pass result_prefix='gpt2_' or another one.",
                columns=taken,
            )

    def _first_rows(self) -> list[Any]:
        window, _ = next(self.windows())
        return [row.columns for row in window if row.error is None]

    def _identity(self, model: str) -> dict[str, Any]:
        """What the output depends on."""
        return {
            "task": {"name": self.task.name, **dataclasses.asdict(self.task)},
            "settings": self.settings.decisive,
            "inputs": {f"input_{i}": one for i, one in enumerate(self.inputs.identity())},
            "model_name": model,
            "model_digest": self.model.digest,
            "versions": {"tfgpt2": __version__, "tensorflow": tf.__version__},
        }


def run_job(
    task: Task,
    inputs: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    model: str = "shakespeare-tiny",
    settings: JobSettings | None = None,
    console: Console | None = None,
) -> JobReport:
    """Runs a job, or the rest of one that was interrupted.

    Rows are read in windows of `rows_per_file`, sorted by length within the window, processed in
    batches of one size, and written in the order of the input, all columns kept. A window is an
    output file; files that are there are not computed again.

    Args:
        task: `Generate`, `Score`, `Embed` or `Classify` of `tfgpt2.batch.tasks`.
        inputs: Files or patterns: JSON Lines, CSV, TSV, Parquet, TFRecord or text, by their ending.
        output: The output folder: a new one, or that of the same job.
        model: A bundled name, a directory of a checkpoint or of an export, or a hub name.
        settings: The other settings.
        console: Where to show the progress; None shows nothing.

    Returns:
        What this run did.

    Raises:
        FileNotFoundError: There is no such file or model.
        FileExistsError: The output folder holds other files.
        ValueError: A column is unknown, the input files do not fit together, the output folder is
            of another job, or a row has an error and the job is to stop.

    Example:
        >>> import tempfile
        >>> from tfgpt2.batch.tasks.text_scoring import Score
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "texts.txt").write_text("To be")
        ...     report = run_job(Score(), [f"{folder}/texts.txt"], f"{folder}/scores")
        ...     lines = Path(folder, "scores", "part-000000.jsonl").read_text().splitlines()
        >>> report.rows, report.errors, lines[0][:28]
        (1, 0, '{"text": "To be", "logprob":')
    """
    return run(Job(task, inputs, output, model, settings or JobSettings()), console)


def run(job: Job, console: Console | None = None) -> JobReport:
    """Processes the windows of a job that are not done yet; see `run_job`."""
    files = errors = windows = rows = 0
    with JobProgress(job.inputs.size, console) as progress:
        for number, (window, offset) in enumerate(job.windows()):
            windows, rows = number + 1, rows + len(window)
            mine = job.is_mine(number)
            if mine:
                errors += job.write(number, window, progress.add)
                files += 1
            progress.move(offset, skipped=not mine)
    complete = job.folder.finish(windows, rows)
    return JobReport(complete, files, progress.rows, errors, progress.tokens, progress.seconds)
