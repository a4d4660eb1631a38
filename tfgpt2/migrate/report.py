"""Files and directories in, what was found in each out: as records, as a table, as JSON."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from tfgpt2.errors import explain
from tfgpt2.migrate import rewrite
from tfgpt2.migrate.check import CHANGE, IMPORT, OTHER, UNCHANGED, UNCLEAR, Verdict, judge
from tfgpt2.migrate.usage import find

# Statuses that leave something to do.
_OPEN = (IMPORT, CHANGE, UNCLEAR)
_WORDS = {
    UNCHANGED: "[green]unchanged[/]",
    IMPORT: "[cyan]import line[/]",
    CHANGE: "[red]change[/]",
    UNCLEAR: "[yellow]look[/]",
    OTHER: "[dim]other[/]",
}
_SKIPPED = ("node_modules", "site-packages", "__pycache__")
_LARGEST = 4 * 2**20  # bytes of a file; programs are not that long


@dataclasses.dataclass(frozen=True)
class FileReport:
    """What was found in a file.

    Attributes:
        path: The file.
        verdicts: One for each site, in the order of the lines.
        error: Why the file could not be read; else empty.
        new_text: The program with its import lines changed, when that is all there is to do.
        diff: That change; empty when there is none.
    """

    path: Path
    verdicts: tuple[Verdict, ...] = ()
    error: str = ""
    new_text: str | None = None
    diff: str = ""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return not self.error and not any(v.status in _OPEN for v in self.verdicts)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        sites = [
            {"line": v.site.line, "column": v.site.column, "code": v.site.code,
             "uses": ".".join((v.site.library, *v.site.path)).replace(".()", "()"),
             "status": v.status, "why": v.why, "write": v.write}
            for v in self.verdicts
        ]  # fmt: skip
        return {"file": str(self.path), "error": self.error, "sites": sites, "diff": self.diff}


def migrate(where: Iterable[str | os.PathLike[str]]) -> list[FileReport]:
    r"""Reads programs and judges every use of transformers, KerasHub and gpt-2-simple in them.

    Nothing of the programs is executed.

    Args:
        where: Python files, and directories, whose `.py` files are read; hidden directories and
            installed packages are passed over.

    Returns:
        A report for each file that uses one of them, or that cannot be read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file that was named is no Python file.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "program.py")
        >>> _ = path.write_text("from transformers import TFGPT2Model\n")
        >>> [verdict.status for verdict in migrate([path])[0].verdicts]
        ['import']
    """
    reports = [report_on(path) for path in _files(where)]
    return [report for report in reports if report.verdicts or report.error]


def report_on(path: Path) -> FileReport:
    """Judges one file."""
    try:
        if path.stat().st_size > _LARGEST:
            return FileReport(path, error=f"The file has more than {_LARGEST // 2**20} MiB.")
        # Not `read_text`, which would change line ends.
        source = path.read_bytes().decode("utf-8")
        verdicts = tuple(judge(site) for site in find(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return FileReport(path, error=f"Not a readable Python 3 program ({error}).")
    except OSError as error:
        return FileReport(path, error=f"The file cannot be read ({error}).")
    new = rewrite.rewritten(source, list(verdicts))
    if new is None or new == source:
        return FileReport(path, verdicts)
    return FileReport(path, verdicts, "", new, rewrite.diff(source, new, str(path)))


def table(report: FileReport) -> Table:
    """A file's verdicts, a line for each."""
    shown = Table(title=escape(str(report.path)), title_justify="left", expand=True)
    shown.add_column("line", justify="right", width=5)
    shown.add_column("in the program", ratio=2)
    shown.add_column("", width=11)
    shown.add_column("what to write", ratio=3)
    for verdict in report.verdicts:
        said = verdict.write or verdict.why
        if verdict.why and verdict.write and verdict.status != OTHER:
            said = f"{escape(verdict.write)}\n[dim]{escape(verdict.why)}[/]"
        else:
            said = escape(said)
        code = escape(verdict.site.code)
        shown.add_row(str(verdict.site.line), code, _WORDS[verdict.status], said)
    return shown


def summary(reports: list[FileReport]) -> dict[str, int]:
    """How many sites have each status, and how many files cannot be read."""
    counts = dict.fromkeys(_WORDS, 0)
    for report in reports:
        for verdict in report.verdicts:
            counts[verdict.status] += 1
    return {"files": len(reports), "unreadable": sum(bool(r.error) for r in reports)} | counts


def _files(where: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    for one in map(Path, where):
        if one.is_dir():
            for folder, folders, names in os.walk(one):
                folders[:] = sorted(
                    f for f in folders if not f.startswith(".") and f not in _SKIPPED
                )
                yield from (Path(folder, n) for n in sorted(names) if n.endswith(".py"))
        elif not one.exists():
            raise FileNotFoundError(
                explain("There is no such file.", fix="Name a program or a directory.",
                        path=str(one))
            )  # fmt: skip
        elif one.suffix != ".py":
            raise ValueError(
                explain("Programs are `.py` files.",
                        fix="Write a notebook as one: jupyter nbconvert --to script.",
                        path=str(one))
            )  # fmt: skip
        else:
            yield one
