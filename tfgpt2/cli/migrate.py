"""`tfgpt2 migrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

from tfgpt2.cli.console import quiet


def migrate(
    paths: Annotated[list[Path], typer.Argument(help="Programs, or directories of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Change import lines where nothing else changes.")
    ] = False,
) -> None:
    """Say what of programs for transformers, KerasHub or gpt-2-simple works here, line by line.

    The exit status is 0 when nothing is left to do, else 1. Nothing of the programs is executed.
    """
    with quiet():  # TensorFlow is imported here
        from tfgpt2.migrate import report

        reports = report.migrate(paths)
        written = [one for one in reports if write and one.new_text is not None]
        for one in written:
            one.path.write_bytes(one.new_text.encode())
        rechecked = {one.path: report.report_on(one.path) for one in written}
    if as_json:
        found = {"summary": report.summary(reports), "files": [one.to_dict() for one in reports]}
        print(json.dumps(found | {"written": [str(one.path) for one in written]}))
    else:
        _print(reports, written)
    done = all(rechecked.get(one.path, one).is_done for one in reports)
    raise typer.Exit(0 if done else 1)


def _print(reports: list, written: list) -> None:
    """Prints a table for each program, the changed imports and the counts."""
    from tfgpt2.migrate import report

    console = Console()
    for one in reports:
        if one.error:
            console.print(f"[bold]{escape(str(one.path))}[/] [red]{escape(one.error)}[/]")
            continue
        console.print(report.table(one))
        if one.diff:
            done = "Written:" if one in written else "Only imports change; --write does it:"
            console.print(done)
            console.print(Syntax(one.diff, "diff", background_color="default"))
    counts = report.summary(reports)
    console.print(", ".join(f"{count} {name}" for name, count in counts.items() if count) or
                  "Nothing here uses transformers, KerasHub or gpt-2-simple.")  # fmt: skip
