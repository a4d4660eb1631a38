"""The rows of one output file through the model: sorted by length, in batches, order restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tfgpt2.batch.models import BatchModel
from tfgpt2.batch.tasks.base import ERROR, Request, Task


class InputRow(NamedTuple):
    """A row of the job.

    Attributes:
        number: Its number in the whole job, from 0.
        columns: Its values by column.
        place: File and line.
        error: Why it cannot be used; None for a good row.
    """

    number: int
    columns: Mapping[str, Any]
    place: str
    error: str | None = None


def process(
    task: Task,
    model: BatchModel,
    rows: Sequence[InputRow],
    *,
    text_column: str,
    batch_size: int,
    on_batch: Callable[[int, int], None] = lambda rows, tokens: None,
) -> list[dict[str, Any]]:
    """Computes the result columns of rows.

    The composition of the batches depends on these rows alone, so that the same rows give the same
    bytes, whatever was interrupted before.

    Args:
        task: What to do.
        model: What `task.load` returned.
        rows: The rows.
        text_column: The column of the texts.
        batch_size: Rows of every batch; the last one is filled up, so that shapes are few.
        on_batch: Called with the rows and tokens of each batch that was done.

    Returns:
        For each row its result columns; of a bad row `error` says what is wrong, and the others are
        None.
    """
    empty = dict.fromkeys(task.result_types)
    results: list[dict[str, Any]] = [{**empty, ERROR: row.error} for row in rows]
    requests: dict[int, Request] = {}
    for i, row in enumerate(rows):
        if row.error is None:
            try:
                requests[i] = task.request(row.number, row.columns, text_column)
            except (TypeError, ValueError) as error:
                results[i][ERROR] = str(error)
    on_batch(len(rows) - len(requests), 0)
    for batch in plan(task, model, requests, batch_size):
        outputs = model.run(task.inputs([requests[i] for i in batch], batch_size, model))
        for place, i in enumerate(batch):
            try:
                results[i] |= task.result(outputs, place)
            except ValueError as error:
                results[i][ERROR] = str(error)
        on_batch(len(batch), sum(_count(results[i].get("num_tokens")) for i in batch))
    return results


def plan(
    task: Task, model: BatchModel, requests: Mapping[int, Request], batch_size: int
) -> list[list[int]]:
    """Divides requests into batches of similar length, the largest first.

    Args:
        task: Says what rows of a batch should have in common.
        model: Counts tokens.
        requests: By the number of their row.
        batch_size: Rows of a batch.

    Returns:
        Keys of `requests`, each once.
    """
    if not requests:
        return []
    counts = model.count_tokens([request.text for request in requests.values()])
    keys = {
        i: task.sort_key(request, model, int(tokens))
        for (i, request), tokens in zip(requests.items(), counts, strict=True)
    }
    order = sorted(requests, key=lambda i: (*(-part for part in keys[i]), i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _count(tokens: Any) -> int:
    """Tokens of a row: a number, one for each of its texts, or unknown."""
    return sum(tokens) if isinstance(tokens, list) else tokens or 0
