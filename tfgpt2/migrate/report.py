"""Reports on files and directories: as records, as a table, and as JSON."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from tfgpt2.errors import explain, value_error
from tfgpt2.migrate import rewrite
from tfgpt2.migrate.check import CHANGE, IMPORT, OTHER, UNCHANGED, UNCLEAR, Finding, check
from tfgpt2.migrate.usage import find_usages

# Statuses that need attention.
_OPEN = (IMPORT, CHANGE, UNCLEAR)
_LABELS = {
    UNCHANGED: "[green]unchanged[/]",
    IMPORT: "[cyan]import line[/]",
    CHANGE: "[red]change[/]",
    UNCLEAR: "[yellow]look[/]",
    OTHER: "[dim]other[/]",
}
_SKIPPED = ("node_modules", "site-packages", "__pycache__")
_LARGEST = 4 * 2**20  # bytes of a file


@dataclasses.dataclass(frozen=True)
class FileReport:
    """Report on one file.

    Attributes:
        path: The file.
        findings: One for each usage, in the order of the lines.
        error: Why the file could not be read; otherwise empty.
        new_text: The program with its import lines changed, if nothing else has to change.
        diff: That change; empty if there is none.
    """

    path: Path
    findings: tuple[Finding, ...] = ()
    error: str = ""
    new_text: str | None = None
    diff: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the file needs no changes."""
        return not self.error and not any(v.status in _OPEN for v in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        sites = [
            {"line": v.usage.line, "column": v.usage.column, "code": v.usage.code,
             "uses": ".".join((v.usage.library, *v.usage.path)).replace(".()", "()"),
             "status": v.status, "why": v.why, "write": v.write}
            for v in self.findings
        ]  # fmt: skip
        return {"file": str(self.path), "error": self.error, "sites": sites, "diff": self.diff}


def migrate(where: Iterable[str | os.PathLike[str]]) -> list[FileReport]:
    r"""Checks every usage of transformers, KerasHub and gpt-2-simple in programs.

    The programs are not executed.

    Args:
        where: Python files, and directories, whose `.py` files are read; hidden directories and
            installed packages are skipped.

    Returns:
        A report for each file that uses one of them, or that cannot be read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is not a Python file.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "program.py")
        >>> _ = path.write_text("from transformers import TFGPT2Model\n")
        >>> [finding.status for finding in migrate([path])[0].findings]
        ['import']
    """
    reports = [report_on(path) for path in _files(where)]
    return [report for report in reports if report.findings or report.error]


def report_on(path: Path) -> FileReport:
    """Checks one file."""
    try:
        if path.stat().st_size > _LARGEST:
            return FileReport(path, error=f"The file has more than {_LARGEST // 2**20} MiB.")
        # Not `read_text`, which would convert line endings.
        source = path.read_bytes().decode("utf-8")
        findings = tuple(map(check, find_usages(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return FileReport(path, error=f"Not a valid Python 3 program ({error}).")
    except OSError as error:
        return FileReport(path, error=f"The file cannot be read ({error}).")
    new = rewrite.rewrite_imports(source, list(findings))
    if new is None or new == source:
        return FileReport(path, findings)
    return FileReport(path, findings, "", new, rewrite.diff(source, new, str(path)))


def table(report: FileReport) -> Table:
    """The findings of a file as a table."""
    shown = Table(title=escape(str(report.path)), title_justify="left", expand=True)
    shown.add_column("line", justify="right", width=5)
    shown.add_column("in the program", ratio=2)
    shown.add_column("", width=11)
    shown.add_column("what to write", ratio=3)
    for finding in report.findings:
        advice = escape(finding.write or finding.why)
        if finding.why and finding.write and finding.status != OTHER:
            advice = f"{advice}\n[dim]{escape(finding.why)}[/]"
        code = escape(finding.usage.code)
        shown.add_row(str(finding.usage.line), code, _LABELS[finding.status], advice)
    return shown


def summary(reports: list[FileReport]) -> dict[str, int]:
    """Number of usages with each status, and of files that cannot be read."""
    counts = dict.fromkeys(_LABELS, 0)
    for report in reports:
        for finding in report.findings:
            counts[finding.status] += 1
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
                explain("There is no such file.", fix="Pass a program or a directory.",
                        path=str(one))
            )  # fmt: skip
        elif one.suffix != ".py":
            raise value_error("A program must be a `.py` file.",
                              fix="Convert a notebook with jupyter nbconvert --to script.",
                              path=str(one))  # fmt: skip
        else:
            yield one
