"""What an export wrote, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tfgpt2.serving.export.signatures.registry import COMPILED, Options, stop_tables

if TYPE_CHECKING:
    from rich.table import Table

    from tfgpt2.text.generator import TextGenerator


class Programs(NamedTuple):
    """How many programs XLA can come to compile for one signature.

    Attributes:
        batch_sizes: Allowed numbers of rows; None when any number is taken as it is.
        prompt_buckets: Sizes of prompts.
        output_buckets: Sizes of the output, 1 where nothing is written.
        stop_tables: Sizes of the table of stop strings; an ordinary request uses the smallest.
    """

    batch_sizes: int | None
    prompt_buckets: int
    output_buckets: int = 1
    stop_tables: int = 1

    @property
    def most(self) -> int | None:
        """The product, or None when nothing bounds it."""
        if self.batch_sizes is None:
            return None
        return self.batch_sizes * self.prompt_buckets * self.output_buckets * self.stop_tables

    def __str__(self) -> str:
        """The product and its factors."""
        if self.most is None:
            return "no bound: one for each number of rows (set batch_sizes)"
        parts = [f"{self.batch_sizes} batch sizes", f"{self.prompt_buckets} prompt buckets"]
        if self.output_buckets > 1:
            parts.append(f"{self.output_buckets} output buckets")
        if self.stop_tables > 1:
            parts.append(f"{self.stop_tables} stop tables")
        return f"at most {self.most} = {' x '.join(parts)}"


class ExportReport(NamedTuple):
    """What an export wrote.

    Attributes:
        path: The version directory.
        signatures: Names of the signatures.
        megabytes: Size of the directory.
        checked: Whether a clean process gave the same answers as the live model.
        weights: Type in which the weights are stored.
        operations: Names of all operations in the graph.
        programs: By compiled function, how many programs XLA can come to compile; empty without
            XLA. `serving_default` runs that of `generate`.
        prompt_buckets: Sizes of prompts, in tokens.
        output_buckets: Sizes of the output, in tokens; the last is the most a request gets.
        batch_sizes: Sizes to which batches are padded, or None.
        batching: Who gathers concurrent requests: `"graph"`, `"server"` or None.
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
        """How many programs XLA can come to compile in all; None when nothing bounds it."""
        counts = [one.most for one in self.programs.values()]
        return None if None in counts else sum(counts)

    def __rich__(self) -> Table:
        """The report as a table; printed by `rich.console.Console().print(report)`."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in self._lines():
            table.add_row(name, escape(value))
        return table

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
        yield "gathers requests", self.batching or "no"
        if not self.programs:
            yield "XLA", "not used: runs on every server"
        for name, programs in self.programs.items():
            yield f"programs of {name}", str(programs)
        if self.programs:
            yield (
                "programs in all",
                "no bound"
                if self.most_programs is None
                else (
                    f"at most {self.most_programs}; each is compiled when its first request comes"
                ),
            )
        yield "warm-up requests", str(self.warmup_requests)
        yield "operations", f"{len(self.operations)} kinds, of TensorFlow and TF Text 2.12.1"
        yield "checked", "in a clean process" if self.checked else "no"


def count_programs(generator: TextGenerator, options: Options) -> dict[str, Programs]:
    """Counts the shapes for which XLA can be asked to compile, by compiled function.

    Args:
        generator: What is exported.
        options: Its signatures.
    """
    if not generator.jit_compile_loop:
        return {}
    rows = None if options.batch_sizes is None else len(options.batch_sizes)
    prompts, found = len(generator.prompt_buckets), {}
    for name in options.names:
        if name in ("generate", "serving_default"):
            outputs = len(generator.output_buckets)
            found["generate"] = Programs(rows, prompts, outputs, stop_tables(options.stop_limits))
        elif name in COMPILED:
            found[name] = Programs(rows, prompts)
    return found


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
