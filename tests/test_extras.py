"""The extras: what they need, and how they are named."""

import re

import pytest

from tests.support.paths import PACKAGE
from tfgpt2 import extras

ROOT = PACKAGE.parent
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*.py"),
         *PACKAGE.rglob("*.py"), *ROOT.glob("serving/*.md")]  # fmt: skip


def declared():
    """The extras of `pyproject.toml`."""
    text = (ROOT / "pyproject.toml").read_text()
    table = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return set(re.findall(r"^(\w+) = ", table, re.MULTILINE))


def test_the_extras_are_those_of_the_project():
    assert extras.MODULES.keys() | {"all"} <= declared()


def test_extras_have_one_spelling_everywhere():
    other = re.compile(r"pip install [^`]*?((?<!')tfgpt2|\.)\[")  # such as '.[serve]'
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in PAGES
        for line in path.read_text(encoding="utf-8").splitlines()
        if other.search(line)
    ]
    assert wrong == []
    named = {
        name
        for path in PAGES
        for found in re.findall(r"'tfgpt2\[([\w,]+)\]'", path.read_text(encoding="utf-8"))
        for name in found.split(",")
    }
    assert named <= declared()


def test_missing_modules_are_named_together():
    message = r"This needs no_such_1, no_such_2\.part, which are not .* 'tfgpt2\[serve\]'"
    with pytest.raises(ImportError, match=message):
        extras.require("This", "serve", "json", "no_such_1", "no_such_2.part")
