"""`GenerateText`, `ScoreText`, `EmbedText` and `ClassifyText`: transforms of rows with texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tfgpt2.batch.tasks.base import ERROR, Task
from tfgpt2.batch.tasks.classify import Classify
from tfgpt2.batch.tasks.generate import Generate
from tfgpt2.batch.tasks.text_scoring import Embed, Score
from tfgpt2.beam.handler import TextModelHandler
from tfgpt2.beam.sdk import RunInference, beam

ERRORS, ROWS = "errors", "rows"


class TextTransform(beam.PTransform):
    """Runs a task on each row.

    The input is a `PCollection` of dicts, or of strings, which become `{"text": ...}`. The result
    has two: `rows`, the rows with the result columns, and `errors`, the rows with the column
    `error` alone.

    Args:
        model: A bundled name, a directory of a checkpoint or of an export that the workers can
            read, or a hub name.
        text_column: Column of the texts.
        batch_size: Rows that the model reads at once.
        jit_compile: Compile with XLA, if the model is no export.
        large_model: Load the model once on each worker and not in each of its processes.
        **fields: The fields of the task.

    Raises:
        ValueError: A field is out of range.
        TypeError: The task has no such field.
    """

    task: ClassVar[type[Task]]

    def __init__(
        self,
        model: str,
        *,
        text_column: str = "text",
        batch_size: int = 32,
        jit_compile: bool = True,
        large_model: bool = False,
        **fields: Any,
    ) -> None:
        super().__init__()
        task = self.task(**fields)
        self._text_column, self._results = text_column, tuple(task.result_types)
        self._handler = TextModelHandler(
            task,
            model,
            text_column=text_column,
            batch_size=batch_size,
            jit_compile=jit_compile,
            large_model=large_model,
        )

    def expand(self, rows: Any) -> Any:
        """Adds the transform to a pipeline."""
        processed = (
            rows
            | "AsRows" >> beam.Map(_as_row, self._text_column)
            | "RunInference" >> RunInference(self._handler)
        )
        split = beam.ParDo(_split, self._results)
        return processed | "SplitErrors" >> split.with_outputs(ERRORS, main=ROWS)


class GenerateText(TextTransform):
    """Continues the text of each row; see `Generate` for the fields.

    Example:
        >>> import apache_beam as beam  # doctest: +SKIP
        >>> with beam.Pipeline() as pipeline:  # doctest: +SKIP
        ...     found = (
        ...         pipeline
        ...         | beam.Create(["To be", "What is"])
        ...         | GenerateText("shakespeare-tiny", options={"max_new_tokens": 8})
        ...     )
        ...     _ = found.rows | beam.Map(print)
    """

    task = Generate


class ScoreText(TextTransform):
    """Log-probability and perplexity of the text of each row; see `Score` for the fields."""

    task = Score


class EmbedText(TextTransform):
    """A vector for the text of each row; see `Embed` for the fields."""

    task = Embed


class ClassifyText(TextTransform):
    """A label for the text of each row."""

    task = Classify


def _as_row(row: Any, text_column: str) -> dict[str, Any]:
    return dict(row) if isinstance(row, Mapping) else {text_column: row}


def _split(row: dict[str, Any], results: tuple[str, ...]) -> Iterator[Any]:
    """Sends a row with an error, without the empty results, to the side output."""
    if row[ERROR] is None:
        yield {name: value for name, value in row.items() if name != ERROR}
    else:
        kept = {name: value for name, value in row.items() if name not in results}
        yield beam.pvalue.TaggedOutput(ERRORS, kept)
