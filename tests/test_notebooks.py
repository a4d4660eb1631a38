"""Notebooks of the tutorials: the cells are the blocks of the pages, and they run."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
# Without a server, and without a program of transformers 4.
RUNNING = ("learn-gpt2", "train-your-own", "from-kerashub")


@pytest.fixture(scope="module")
def notebooks():
    path = ROOT / "docs" / "notebooks.py"
    spec = importlib.util.spec_from_file_location("notebooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_cells_are_the_blocks_of_the_page(notebooks, page):
    from tests.test_docs import blocks

    text = page.read_text(encoding="utf-8")
    cells = notebooks.notebook(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    expected = [block for block in blocks(text) if block.language in ("python", "sh")
                and block.mark not in ("not run", "server")]  # fmt: skip
    assert len(code) == len(expected) > 0
    for cell, block in zip(code, expected, strict=True):
        assert cell["source"].removeprefix("%%bash\n") == block.code.rstrip("\n")
        printed = "".join(output["text"] for output in cell["outputs"])
        assert printed == (block.prints or "")
    assert "<!--" not in "".join(cell["source"] for cell in cells)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_are_valid(notebooks, page):
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.reads(notebooks.write(page.read_text(encoding="utf-8")), 4))


@pytest.mark.long
@pytest.mark.parametrize("name", RUNNING)
def test_notebooks_run(notebooks, name, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    page = ROOT / "docs" / "tutorials" / f"{name}.md"
    made = nbformat.reads(notebooks.write(page.read_text(encoding="utf-8")), 4)
    expected = [["".join(o.get("text", "") for o in c.outputs)] for c in made.cells
                if c.cell_type == "code"]  # fmt: skip
    # Cells of shell commands call `tfgpt2`, as in an environment that is active.
    scripts = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    nbclient.NotebookClient(
        made, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    for cell, (printed,) in zip(code, expected, strict=True):
        streams = [o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout"]
        if printed:
            found = "".join(streams)
            assert [line.rstrip() for line in found.strip().splitlines()] == [
                line.rstrip() for line in printed.strip().splitlines()]  # fmt: skip
