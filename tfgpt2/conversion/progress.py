"""The progress bar of a conversion, which counts tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Step = Callable[[int], None]
"""Called with the total number of tensors whenever one of them is done."""


@contextlib.contextmanager
def show_progress(shown: bool) -> Iterator[Callable[[str], Step]]:
    """Shows one bar for each stage on standard error.

    Args:
        shown: Whether anything is shown.

    Yields:
        From the name of a stage to its step function.
    """
    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bars:

        def add_stage(name: str) -> Step:
            task = bars.add_task(name, total=None)
            return lambda total: bars.update(task, total=total, advance=1)

        yield add_stage
