"""The folder of an export: written beside its place, checked, renamed; and the report."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tfgpt2.errors import explain
from tfgpt2.litert.contract import MODEL

if TYPE_CHECKING:
    from rich.table import Table


class LiteRTReport(NamedTuple):
    """The report of a LiteRT export.

    Attributes:
        path: The folder or file.
        signatures: Names of the signatures.
        megabytes: Size of the file, in a folder of `model.tflite`.
        quantize: How the matrices are stored, None for float32.
        difference: Largest root mean square of a difference from the live model that the self-check
            saw, in standard deviations of the output; None where it did not run.
    """

    path: Path
    signatures: tuple[str, ...]
    megabytes: float
    quantize: str | None
    difference: float | None

    def __rich__(self) -> Table:
        """The report as a table; printed by `rich.console.Console().print(report)`."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        checked = "no"
        if self.difference is not None:
            checked = f"by LiteRT in a clean process; difference {self.difference:.2g}"
        for name, value in (
            ("written", str(self.path)),
            ("size", f"{self.megabytes:.1f} MB, matrices in {self.quantize or 'float32'}"),
            ("signatures", ", ".join(self.signatures)),
            ("checked", checked),
        ):
            table.add_row(name, escape(value))
        return table


def new_path(path: str | os.PathLike[str]) -> Path:
    """The path of an export.

    Raises:
        FileExistsError: It exists.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(
            explain(
                "The path exists, and an export never overwrites anything.",
                fix="Choose another name, or delete it first.",
                path=str(path),
            )
        )
    return path


def publish(
    path: Path,
    data: bytes,
    add_files: Callable[[Path], None],
    check: Callable[[Path], float] | None,
) -> float | None:
    """Writes a folder beside its place, checks it, and renames it.

    Args:
        path: The folder.
        data: Contents of `model.tflite`.
        add_files: Writes the other files into a folder.
        check: The self-check of a folder, or None.

    Returns:
        What the self-check returned.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (beside / MODEL).write_bytes(data)
        add_files(beside)
        difference = None if check is None else check(beside)
        beside.chmod(0o755)  # mkdtemp's 0700 would keep other users out
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return difference
