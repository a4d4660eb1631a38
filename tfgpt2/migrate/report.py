"""Reports on files and directories: as records, for terminals, as lines, and as JSON."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.text import Text

from tfgpt2.errors import explain, value_error
from tfgpt2.migrate import rewrite
from tfgpt2.migrate.check import CHANGE, IMPORT, OTHER, UNCHANGED, UNCLEAR, Finding, check
from tfgpt2.migrate.usage import find_usages

# Statuses that need attention.
_OPEN = (IMPORT, CHANGE, UNCLEAR)
# What a status is called, and its style.
_LABELS = {
    UNCHANGED: ("unchanged", "green"),
    IMPORT: ("import", "cyan"),
    CHANGE: ("change", "red"),
    UNCLEAR: ("look", "yellow"),
    OTHER: ("other", "dim"),
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


def terminal_lines(report: FileReport) -> list[Text]:
    """The findings of a file for a terminal, in full: code, and below it what to write and why.

    Usages that stay as they are only count.
    """
    indent = " " * 7
    lines = [Text(str(report.path), style="bold")]
    for finding in report.findings:
        if finding.status != UNCHANGED:
            number = f"{finding.usage.line:5}  "
            lines.append(Text.assemble((number, "dim"), finding.usage.code))
            label, style = _LABELS[finding.status]
            advice = finding.write or finding.why
            lines.append(Text.assemble(indent, (f"{label}: ", style), advice))
            if finding.why and finding.write:
                lines.append(Text.assemble(indent, (finding.why, "dim")))
    unchanged = sum(finding.status == UNCHANGED for finding in report.findings)
    if unchanged:
        lines.append(Text.assemble(indent, (f"{_times(unchanged)} unchanged", "dim")))
    return lines


def plain_lines(report: FileReport) -> list[str]:
    """The findings of a file as lines `file:line: old -> new`, for other programs.

    Usages that stay as they are, and those of other models, have none.
    """
    if report.error:
        return [f"{report.path}:1: {report.error}"]
    lines = []
    for finding in report.findings:
        if finding.status in _OPEN:
            old, new = finding.usage.code, finding.write or finding.why
            lines.append(f"{report.path}:{finding.usage.line}: {old} -> {new}")
    return lines


def why_not_rewritten(report: FileReport) -> str:
    """Why `new_text` is None, in a sentence; empty where the file needs no change or has one."""
    if report.error or report.is_done or report.new_text is not None:
        return ""
    changes = sum(finding.status == CHANGE for finding in report.findings)
    if changes:
        return f"{_times(changes)} to change by hand; then --write changes the import lines."
    if any(finding.status == IMPORT for finding in report.findings):
        return "An import has to be split by hand."
    return "Its import lines need no change."


def _times(count: int) -> str:
    return f"{count} usage{'s' * (count != 1)}"


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
