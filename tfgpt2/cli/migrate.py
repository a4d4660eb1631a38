"""`tfgpt2 migrate`: the command's options, and how its report is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

from tfgpt2.cli.quiet import quiet


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
        written = [r for r in reports if write and r.new_text is not None]
        for one in written:
            one.path.write_bytes(one.new_text.encode())
        again = {r.path: report.report_on(r.path) for r in written}
    if as_json:
        found = {"summary": report.summary(reports), "files": [r.to_dict() for r in reports]}
        print(json.dumps(found | {"written": [str(r.path) for r in written]}))
    else:
        _print(reports, written)
    done = all(again.get(r.path, r).is_done for r in reports)
    raise typer.Exit(0 if done else 1)


def _print(reports: list, written: list) -> None:
    """Tables and changes, for a reader."""
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
