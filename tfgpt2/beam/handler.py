"""`TextModelHandler`: a model of this package for Beam's `RunInference`."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfgpt2.batch.engine import InputRow, process
from tfgpt2.batch.models import BatchModel
from tfgpt2.batch.tasks.base import ERROR, Task
from tfgpt2.beam.sdk import Metrics, ModelHandler
from tfgpt2.validation import check_count

NAMESPACE = "tfgpt2"
_BATCHES = 16  # batches of a bundle that are sorted by length together


class TextModelHandler(ModelHandler):
    """Runs a task on rows, which are dicts, and returns the rows with the result columns added.

    Beam gives it up to 16 batches at once; they are sorted by length and run in batches of one
    size. The model is loaded once in each process, or with `large_model` once on each worker.
    A bad row is returned with its `error`. Counters in the namespace `tfgpt2`: `rows`, `errors`,
    `tokens`; `RunInference` adds latencies in the same one.

    Args:
        task: `Generate`, `Score`, `Embed` or `Classify` of `tfgpt2.batch.tasks`.
        model: A bundled name, a directory of a checkpoint or of an export that the workers can
            read, or a hub name.
        text_column: Column of the texts.
        batch_size: Rows that the model reads at once.
        jit_compile: Compile with XLA, if the model is no export.
        **options: Those of `ModelHandler`, such as `large_model` and `model_copies`.
    """

    def __init__(
        self,
        task: Task,
        model: str,
        *,
        text_column: str = "text",
        batch_size: int = 32,
        jit_compile: bool = True,
        **options: Any,
    ) -> None:
        check_count("batch_size", batch_size, least=1, optional=False)
        sizes = {"min_batch_size": batch_size, "max_batch_size": batch_size * _BATCHES}
        super().__init__(**sizes | options)
        self._task, self._model, self._jit_compile = task, str(model), jit_compile
        self._text_column, self._batch_size = text_column, batch_size

    def load_model(self) -> BatchModel:
        """Loads the model."""
        return self._task.load(self._model, jit_compile=self._jit_compile)

    def run_inference(
        self,
        batch: Sequence[Mapping[str, Any]],
        model: BatchModel,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yields a row with results for each row.

        Args:
            batch: Rows.
            model: What `load_model` returned.
            inference_args: Not used: settings are those of the task, and of columns.
        """
        rows = [InputRow(_stable_number(row), row, "row") for row in batch]
        results = process(
            self._task,
            model,
            rows,
            text_column=self._text_column,
            batch_size=self._batch_size,
            on_batch=lambda _, tokens: Metrics.counter(NAMESPACE, "tokens").inc(tokens),
        )
        errors = sum(result[ERROR] is not None for result in results)
        Metrics.counter(NAMESPACE, "rows").inc(len(rows))
        Metrics.counter(NAMESPACE, "errors").inc(errors)
        for row, result in zip(batch, results, strict=True):
            yield {**row, **result}

    def get_num_bytes(self, batch: Sequence[Mapping[str, Any]]) -> int:
        """Bytes of a batch, for Beam's metrics."""
        return sum(sys.getsizeof(value) for row in batch for value in row.values())

    def get_metrics_namespace(self) -> str:
        """Namespace of Beam's metrics."""
        return NAMESPACE

    def validate_inference_args(self, inference_args: dict[str, Any] | None) -> None:
        """Refuses arguments: settings are those of the task, and of columns.

        Raises:
            ValueError: There are some.
        """
        if inference_args:
            raise ValueError("Settings belong to the task. Received: inference_args.")


def _stable_number(row: Mapping[str, Any]) -> int:
    """A number that depends on the row alone, since rows of a pipeline have no order.

    Seeds are derived from it: a row has the same draws in whatever bundle it is.
    """
    text = json.dumps(row, sort_keys=True, default=repr)
    return zlib.crc32(text.encode("utf-8", "replace"))
