"""`tfgpt2 migrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from tfgpt2.cli.console import notes
from tfgpt2.quiet import quiet


def migrate(
    paths: Annotated[list[Path], typer.Argument(help="Programs, or directories of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Rewrite the import lines if nothing else must change.")
    ] = False,
) -> None:
    """Check programs for transformers, KerasHub or gpt-2-simple line by line: what must change?

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
        _print(reports, written, write)
    done = all(rechecked.get(one.path, one).is_done for one in reports)
    raise typer.Exit(0 if done else 1)


def _print(reports: list, written: list, write: bool) -> None:
    """Prints the findings, what --write did, and the counts; piped, one line for each finding."""
    from tfgpt2.migrate import report

    console = Console()
    for one in reports:
        if not console.is_terminal:
            for line in report.plain_lines(one):
                print(line)
        elif one.error:
            console.print(Text(f"{one.path}\n{'':7}{one.error}", style="red"))
        else:
            for line in report.terminal_lines(one):
                console.print(line, soft_wrap=True)  # code stays whole for copying
        changes = sum(line.startswith("+") for line in one.diff.splitlines()[2:])
        lines = f"{changes} import line{'s' * (changes != 1)}"
        if one in written:
            notes.print(Text(f"{one.path}: changed {lines}"))
        elif one.diff and console.is_terminal:
            console.print(Syntax(one.diff, "diff", background_color="default"))
            notes.print(f"Nothing else has to change: --write changes {lines}.")
        elif write and (reason := report.why_not_rewritten(one)):
            notes.print(Text(f"{one.path}: not changed. {reason}"))
    counts = report.summary(reports)
    names = {"files": "file"} if counts["files"] == 1 else {}
    shown = [f"{count} {names.get(name, name)}" for name, count in counts.items() if count]
    notes.print(", ".join(shown) or "Nothing here uses transformers, KerasHub or gpt-2-simple.")
