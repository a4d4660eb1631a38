"""Draw the terminal output of `tfgpt2 generate` as an SVG for the documentation.

    python docs/make_terminal.py

The command runs in a pseudo-terminal; rich converts its output to an SVG.
"""

from __future__ import annotations

import inspect
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

TARGET = Path(__file__).parent / "images" / "generate.svg"
ARGUMENTS = ["generate", "ROMEO:\n", "--seed", "2", "-n", "90"]
WIDTH = 64
# Rich's template downloads a font; a local one is enough.
_FONT = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)


def output() -> str:
    """Run the command in a terminal and return its standard output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tfgpt2.cli", *ARGUMENTS], stdout=theirs, stderr=subprocess.DEVNULL
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the process closed its end
            break
        if not piece:
            break
        found += piece
    if process.wait():
        raise SystemExit(f"the command failed with status {process.returncode}")
    return found.decode("utf-8").replace("\r\n", "\n")


def _template() -> str:
    """Rich's default SVG template."""
    return inspect.signature(Console.export_svg).parameters["code_format"].default


def main() -> None:
    """Write the picture."""
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        shown = [a.replace("\n", "\\n") for a in ARGUMENTS]
        command = " ".join(f"$'{a}'" if "\\n" in a else shlex.quote(a) for a in shown)
        console.print(f"[green]$[/] tfgpt2 {command}", highlight=False)
        console.print(Text.from_ansi(output()))
        template = _FONT.sub("", _template()).replace("Fira Code", "DejaVu Sans Mono")
        svg = console.export_svg(title="tfgpt2", code_format=template, unique_id="tfgpt2")
    TARGET.write_text(svg + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(svg) / 1024:.0f} KB")


if __name__ == "__main__":
    main()
