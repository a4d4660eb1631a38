"""The report of an export, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tfgpt2.serving.export.signatures.base import Programs, SignatureFn

if TYPE_CHECKING:
    from rich.table import Table


class ExportReport(NamedTuple):
    """The report of an export.

    Attributes:
        path: The version directory.
        signatures: Names of the signatures.
        megabytes: Size of the directory.
        checked: Whether the self-check ran.
        weights: Type in which the weights are stored.
        operations: Names of all operations in the graph.
        programs: By compiled function, the number of programs that XLA can compile; empty without
            XLA. `serving_default` runs that of `generate`.
        prompt_buckets: Prompt buckets, in tokens.
        output_buckets: Output buckets, in tokens; the last is the most a request gets.
        batch_sizes: Sizes to which batches are padded, or None.
        batching: `"graph"` or `"server"`, which batches concurrent requests, or None.
        warmup_requests: Requests in the warm-up file.
    """

    path: Path
    signatures: tuple[str, ...]
    megabytes: float
    checked: bool
    weights: str
    operations: tuple[str, ...]
    programs: dict[str, Programs] = {}
    prompt_buckets: tuple[int, ...] = ()
    output_buckets: tuple[int, ...] = ()
    batch_sizes: tuple[int, ...] | None = None
    batching: str | None = None
    warmup_requests: int = 0

    @property
    def most_programs(self) -> int | None:
        """The number of programs that XLA can compile in all; None when nothing bounds it."""
        counts = [one.most for one in self.programs.values()]
        return None if None in counts else sum(counts)

    def __rich__(self) -> Table:
        """The report as a table; printed by `rich.console.Console().print(report)`."""
        from rich import markup
        from rich.table import Table

        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in self._lines():
            table.add_row(name, markup.escape(value))
        return table

    def _repr_html_(self) -> str:
        """The report as a table of a notebook."""
        rows = (f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in self._lines())
        return f"<table>{''.join(rows)}</table>"

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "written", str(self.path)
        yield "size", f"{self.megabytes:.1f} MB, weights in {self.weights}"
        yield "signatures", ", ".join(self.signatures)
        if self.prompt_buckets:
            yield "prompt buckets", _listed(self.prompt_buckets)
        if self.output_buckets:
            yield "output buckets", f"{_listed(self.output_buckets)} tokens"
        sizes = self.batch_sizes
        yield "batch sizes", "any" if sizes is None else f"{_listed(sizes)}; more run in parts"
        yield "batching", self.batching or "no"
        if not self.programs:
            yield "XLA", "not used: runs on every server"
        for name, programs in self.programs.items():
            yield f"programs of {name}", str(programs)
        if self.programs:
            most = self.most_programs
            text = f"at most {most}; each is compiled at its first request"
            yield "programs in all", "no bound" if most is None else text
        yield "warm-up requests", str(self.warmup_requests)
        yield "operations", f"{len(self.operations)} kinds, of TensorFlow and TF Text 2.12.1"
        yield "checked", "in a clean process" if self.checked else "no"


def count_programs(signatures: Iterable[SignatureFn]) -> dict[str, Programs]:
    """Counts the programs that XLA can compile, by compiled function; empty without XLA."""
    counts = {one.program: one.count_programs() for one in signatures}
    return {name: programs for name, programs in counts.items() if programs is not None}


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
