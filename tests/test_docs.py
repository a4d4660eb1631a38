"""Tests of the documentation: every Python block runs and prints what the page shows.

The blocks of a page form one program, run in an empty folder. Comments on the line before a block:

    <!-- not run: WHY -->         needs the network or another program; listed and counted
    <!-- raises: ValueError -->   raises that error
    <!-- run -->                  a block of shell commands that is run; in the README and the
                                  tutorials all of them are
    <!-- server: DIR -->          run after starting the local server on DIR, which replaces
                                  http://127.0.0.1:8501 on the rest of the page
    <!-- server -->               shell commands, of which the last starts the local server

A `text` block after a Python or shell block is its expected output. A page that contains
`<!-- own process -->` changes process-wide settings and runs in its own process.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    page.relative_to(ROOT).as_posix(): page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
OTHER_PAGES = {
    page.relative_to(ROOT).as_posix(): page
    for page in [*ROOT.glob("*.md"), *sorted((ROOT / "benchmarks").rglob("*.md"))]
    if "benchmarks/.envs/" not in page.as_posix()  # the peers' own pages
}
# Pages of the default suite; the others are marked `long` (`make docs-test`).
QUICK = ("docs/explanations/tokenizer.md",)
# Pages whose shell blocks run without a mark, in order.
FLOWS = ("README.md", "docs/tutorials/")
OWN_PROCESS = "<!-- own process -->"
ADDRESS = "http://127.0.0.1:8501"
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$", re.M | re.S
)
_MARK = re.compile(r"<!-- (not run|raises|run|server)(?:: (.*?))? -->\s*\Z")


@dataclasses.dataclass
class Block:
    """A fenced block: language, code, line number, mark with its value, and expected output."""

    language: str
    code: str
    line: int
    mark: str = ""
    value: str = ""
    prints: str | None = None
    flow: bool = False

    @property
    def runs(self) -> bool:
        shell = self.language == "sh" and (self.flow or self.mark in ("run", "server"))
        return self.mark != "not run" and (self.language == "python" or shell)


def blocks_of(name: str) -> list[Block]:
    """Parse the blocks of a page."""
    return blocks(PAGES[name].read_text(encoding="utf-8"), name.startswith(FLOWS))


def blocks(text: str, flow: bool = False) -> list[Block]:
    """Parse the blocks of a text; shell blocks of a flow run without a mark."""
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(text):
        before = text[end : match.start()]
        end = match.end()
        indent = len(match["indent"])
        code = "".join(line[indent:] or "\n" for line in match["code"].splitlines(keepends=True))
        if match["language"] == "text" and found and not before.strip():
            found[-1].prints = code
            continue
        mark = _MARK.search(before)
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(match["language"], code, line, *(mark.groups("") if mark else ())))
        found[-1].flow = flow
    return found


def run_page(name: str, folder: Path) -> None:
    """Run the blocks of a page in order, in a folder; the README's is the project's."""
    if name == "README.md":
        (folder / "README.md").write_bytes(PAGES[name].read_bytes())
        shutil.copytree(ROOT / "docs", folder / "docs")
    state = {"__name__": "__main__"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            contextlib.chdir(folder) if hasattr(contextlib, "chdir") else _in(folder)
        )
        address = ADDRESS
        for block in blocks_of(name):
            code = block.code
            if block.mark == "server":
                models = block.value
                if not models:
                    code, _, models = code.rpartition("tfgpt2 serve ")
                    run_block(name, block, code, state)
                    code, models = "", models.split()[0]
                address = stack.enter_context(server(models))
            if block.runs:
                run_block(name, block, code.replace(ADDRESS, address), state)


def run_block(name: str, block: Block, code: str, state: dict[str, object]) -> None:
    """Run a block and compare its output."""
    place = f"{name}:{block.line}"
    if block.language == "sh":
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, timeout=300,
            env={**os.environ, **shell_paths(), "COLUMNS": "100"},
        )  # fmt: skip
        assert done.returncode == 0, f"{place}\n{done.stdout}\n{done.stderr}"
        printed = done.stdout
    else:
        # Tracebacks show the line number of the page.
        program = compile("\n" * (block.line - 1) + code, str(PAGES[name]), "exec")
        out = io.StringIO()
        raised = ""
        with contextlib.redirect_stdout(out):
            try:
                exec(program, state)
            except Exception as error:
                raised = type(error).__name__
                if block.mark != "raises":
                    raise
                out.write(str(error))
        assert raised == (block.value if block.mark == "raises" else ""), place
        printed = out.getvalue()
    if block.prints is not None:
        assert plain(printed) == plain(block.prints), place


@functools.cache
def shell_paths() -> dict[str, str]:
    """Paths of the shell, in which `tfgpt2` is the command of this tree, and `python` ours."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = folder / "tfgpt2"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tfgpt2.cli "$@"\n')
    command.chmod(0o755)
    bins = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    packages = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return {"PATH": bins, "PYTHONPATH": packages}


def plain(text: str) -> str:
    """Strip trailing whitespace from the lines and the text."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@contextlib.contextmanager
def _in(folder: Path):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def server(models: str):
    """Serve a folder of versions; yield the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tfgpt2.cli", "serve", models, "--port", str(port)]
    with open("server.log", "w") as log:
        process = subprocess.Popen([*command, "--grpc-port", "-1"], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 300  # loading runs each signature once
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, Path(
                    "server.log"
                ).read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def has_blocks(name: str) -> bool:
    return any(block.runs for block in blocks_of(name))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.long)
        for name in PAGES
        if has_blocks(name)
    ],
)
def test_blocks_of_a_page_run(name, tmp_path):
    if OWN_PROCESS not in PAGES[name].read_text(encoding="utf-8"):
        run_page(name, tmp_path)
        return
    command = [sys.executable, "-m", "tests.test_docs", name, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_blocks_that_are_not_run_give_a_reason(figure):
    """Each skipped block has a reason, and there are few."""
    ran, skipped = 0, []
    for name in PAGES:
        for block in blocks_of(name):
            if block.language == "python" or (block.language == "sh" and block.flow):
                ran += block.runs
                if not block.runs:
                    skipped.append(f"{name}:{block.line}: {block.value}")
    print(*skipped, sep="\n")
    figure("blocks of pages that run", ran)
    figure("blocks of pages that do not run", len(skipped))
    assert all(re.search(r": needs (the network|another program)", one) for one in skipped), skipped
    assert len(skipped) <= 15 and ran > 5 * len(skipped)


def test_marks_and_outputs_are_parsed(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs the network -->\n```python\nboom\n```\n\n"
        "<!-- raises: KeyError -->\n```python\n{}[1]\n```\n\n1.  List:\n\n"
        "    ```python\n    x = 2\n    print(x)\n    ```\n\n    ```text\n    2\n    ```\n"
    )
    monkeypatch.setitem(PAGES, "page.md", page)
    first, second, third = blocks(page.read_text())
    assert (first.runs, first.value) == (False, "needs the network")
    assert (second.mark, second.value, second.line) == ("raises", "KeyError", 8)
    assert (third.code, third.prints) == ("x = 2\nprint(x)\n", "2\n")
    run_page("page.md", tmp_path)
    page.write_text(page.read_text().replace("    2\n", "    3\n"))
    with pytest.raises(AssertionError, match=r"page\.md:14"):
        run_page("page.md", tmp_path)


def test_links_between_pages_are_valid():
    broken = []
    for name, page in (PAGES | OTHER_PAGES).items():
        prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            path = target.split("#")[0]
            if path and ":" not in target and not (page.parent / path).exists():
                broken.append(f"{name}: {target}")
    assert not broken


@pytest.mark.long
def test_site_builds_without_warnings_and_external_resources(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    pages = {page: page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")}
    assert len(pages) > 35
    for page, text in pages.items():
        assert not re.search(
            r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(?:https?:)?//", text
        ), page
    commands = pages[tmp_path / "reference" / "command-line.html"]
    models = pages[tmp_path / "reference" / "api" / "models.html"]
    assert "tfgpt2 serve" in commands and "TFGPT2DoubleHeadsModel" in models


if __name__ == "__main__":
    run_page(sys.argv[1], Path(sys.argv[2]))
