"""The patches of `docs/extending.md`: one new file and one line each, applied to a copy and run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import DOCS, PACKAGE

PAGE = (DOCS / "extending.md").read_text(encoding="utf-8")
SECTIONS = {
    part.partition("\n")[0]: part
    for part in PAGE.split("\n## ")[1:]
}  # fmt: skip


def fenced(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.M | re.S)


def insert_lines(package: Path, section: str) -> None:
    """Applies the diff: an import among the imports, and a line after the one that stands above."""
    registry = package.parent / re.search(r"The line, in `(tfgpt2/[\w/]+\.py)`", section)[1]
    text = registry.read_text()
    (diff,) = fenced(section, "diff")
    imported, anchor, line = diff.splitlines()
    assert imported.startswith("+from ") and line[0] == "+" and text.count(anchor[1:]) == 1
    text = text.replace(anchor[1:], f"{anchor[1:]}\n{line[1:]}")
    first = re.search(r"^from tfgpt2", text, re.M).start()
    registry.write_text(f"{text[:first]}{imported[1:]}\n{text[first:]}")


@pytest.mark.long
@pytest.mark.parametrize("name", SECTIONS)
def test_a_patch_is_one_file_and_one_line(name, tmp_path):
    section, package = SECTIONS[name], tmp_path / "tfgpt2"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    module, program = fenced(section, "python")
    path = tmp_path / re.match(r"# (tfgpt2/[\w/]+\.py)\n", module)[1]
    assert not path.exists()
    path.write_text(module.partition("\n")[2])
    insert_lines(package, section)
    (expected,) = fenced(section, "text")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == expected


def test_there_are_three():
    assert len(SECTIONS) == 3
