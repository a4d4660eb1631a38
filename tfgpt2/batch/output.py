"""The output folder of a job: `_job.json`, one file for each window of rows, and `_SUCCESS`.

A file is written beside its place and renamed, so a file that is there is complete. Names that
begin with an underscore are skipped by Spark, Beam and Arrow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfgpt2.batch.formats.base import Writer
from tfgpt2.errors import explain, value_error
from tfgpt2.files import make_directory, read_json_object, replace_files

JOB_FILE, SUCCESS_FILE = "_job.json", "_SUCCESS"


class OutputFolder:
    """The output folder of one job.

    Args:
        path: The folder.
        writer: Writes its files.
    """

    def __init__(self, path: str | Path, writer: Writer) -> None:
        self.path, self.writer = Path(path), writer

    def check_free(self) -> None:
        """Checks that the folder is missing, empty, or of a job, before a model is loaded.

        Raises:
            FileExistsError: It holds other files.
            NotADirectoryError: It is a file.
        """
        make_directory(self.path, "The output of a job")
        others = [one.name for one in self.path.iterdir() if not one.name.startswith(".")]
        if others and JOB_FILE not in others:
            raise FileExistsError(
                explain(
                    "The output folder holds files that are not of a job.",
                    fix="Name a new folder.",
                    output=str(self.path),
                    files=sorted(others)[:3],
                )
            )

    def claim(self, job: Mapping[str, Any]) -> None:
        """Writes what the job is, or checks that the folder is of the same one.

        Args:
            job: JSON; of each section, what decides the results. `"model_name"` is only a note.

        Raises:
            ValueError: It is of another job.
        """
        job = json.loads(json.dumps(job, default=str))
        file = self.path / JOB_FILE
        if not file.exists():
            _replace(file, json.dumps(job, indent=1, ensure_ascii=False) + "\n")
            return
        there = read_json_object(file, "job")
        changed = {
            name: f"{old!r} there, {new!r} now"
            for name, old, new in _differences(there, job)
            if name != "model_name"
        }
        if changed:
            raise value_error(
                "The output folder is of a job with other inputs, model or settings.",
                fix="Resume with the same ones, or name a new folder; nothing was changed.",
                **changed,
            )

    def file(self, number: int) -> Path:
        """The file of a window."""
        return self.path / f"part-{number:06d}{self.writer.suffix}"

    def write(self, number: int, rows: Sequence[dict[str, Any]], schema: Any) -> None:
        """Writes the file of a window, complete or not at all."""
        file = self.file(number)
        for left in self.path.glob(f".{file.name}.*"):  # by a process that was killed
            left.unlink(missing_ok=True)
        with replace_files([file]) as (temporary,):
            self.writer.write(temporary, rows, schema)

    def finish(self, windows: int, rows: int) -> bool:
        """Marks the job as complete once all its files are there, and returns whether they are."""
        if not all(self.file(number).exists() for number in range(windows)):
            return False
        _replace(self.path / SUCCESS_FILE, json.dumps({"files": windows, "rows": rows}) + "\n")
        return True


def _replace(file: Path, text: str) -> None:
    for left in file.parent.glob(f".{file.name}.*"):
        left.unlink(missing_ok=True)
    with replace_files([file]) as (temporary,):
        temporary.write_text(text, encoding="utf-8")


def _differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """The values in which two JSON objects differ, by the names of the innermost fields."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            change
            for key in dict.fromkeys([*old, *new])
            for change in _differences(old.get(key), new.get(key), str(key))
        ]
    return [] if old == new else [(name, old, new)]
