"""The public API equals the snapshot `tests/public_api.txt`, so that it never changes by accident.

After an intended change, run UPDATE_PUBLIC_API=1 python -m pytest tests/test_public_api.py and
describe the change in CHANGELOG.md (see CONTRIBUTING.md).
"""

import difflib
import importlib
import inspect
import os
import re
from pathlib import Path

import pytest

import tfgpt2

SNAPSHOT = Path(__file__).with_name("public_api.txt")
# Public modules besides `tfgpt2` itself.
MODULES = ("tfgpt2.outputs", "tfgpt2.serving", "tfgpt2.training.data", "tfgpt2.training.lora",
           "tfgpt2.training.recipes", "tfgpt2.training.schedules", "tfgpt2.training.settings",
           "tfgpt2.training.trainer", "tfgpt2.training.checkpoint", "tfgpt2.training.callbacks",
           "tfgpt2.litert",
           "tfgpt2.evaluation.perplexity", "tfgpt2.evaluation.cloze", "tfgpt2.inspect",
           "tfgpt2.batch.job", "tfgpt2.batch.settings", "tfgpt2.batch.tasks.generate",
           "tfgpt2.batch.tasks.text_scoring", "tfgpt2.batch.tasks.classify")  # fmt: skip


def describe(name, value):
    """Describes a class or function in lines: its signature, and the members that we define."""
    if not callable(value):
        return [f"{name}: {type(value).__name__}"]
    if not inspect.isclass(value):
        return [f"{name}{signature(value)}"]
    lines = [f"class {name}{signature(value)}"]
    members = {}
    for base in reversed(value.__mro__):
        if base.__module__.split(".")[0] == "tfgpt2":
            members |= vars(base)
    for member, found in sorted(members.items()):
        if member.startswith("_") and member != "__call__":
            continue
        if isinstance(found, (classmethod, staticmethod)):
            lines.append(f"    {type(found).__name__} {member}{signature(found.__func__)}")
        elif inspect.isfunction(found):
            lines.append(f"    {member}{signature(found)}")
        elif isinstance(found, property) or hasattr(found, "__get__"):
            lines.append(f"    property {member}")
        elif not inspect.isdatadescriptor(found):
            lines.append(f"    {member}: {type(found).__name__}")
    fields = inspect.get_annotations(value)
    return lines + [f"    field {field}" for field in fields if not field.startswith("_")]


def signature(function):
    """Formats names, order, kinds and defaults; annotations may change."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values() if p.name != "cls"]
    text = str(found.replace(parameters=bare, return_annotation=found.empty))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def describe_public_api():
    lines = ["# tfgpt2"]
    for name in sorted(tfgpt2.__all__):
        lines += describe(name, getattr(tfgpt2, name))
    for module in MODULES:
        found = importlib.import_module(module)
        lines.append(f"# {module}")
        for name in sorted(getattr(found, "__all__", None) or own_names(found)):
            lines += describe(name, getattr(found, name))
    return "\n".join(lines) + "\n"


def own_names(module):
    """Returns the public names that a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def test_public_api_equals_the_snapshot():
    now = describe_public_api()
    if os.environ.get("UPDATE_PUBLIC_API"):
        SNAPSHOT.write_text(now, encoding="utf-8")
    known = SNAPSHOT.read_text(encoding="utf-8")
    changes = "".join(
        difflib.unified_diff(known.splitlines(True), now.splitlines(True), "snapshot", "now", n=1)
    )
    assert not changes, f"The public API changed:\n{changes}\n{__doc__}"


def test_changes_are_detected(monkeypatch):
    from tfgpt2.generation.config import GenerationConfig

    def updated(self, *, other=1, **options):
        return self

    monkeypatch.setattr(GenerationConfig, "updated", updated)
    assert "    updated(self, *, other=1, **options)" in describe_public_api()
    assert "    updated(self, *, other=1, **options)" not in SNAPSHOT.read_text(encoding="utf-8")


def test_public_names_have_docstrings():
    for name in tfgpt2.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(tfgpt2, name)), name


def test_version_is_valid():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", tfgpt2.__version__)


@pytest.mark.parametrize("name", ["AnythingElse", "TFGPT2", "_PUBLICS"])
def test_unknown_names_raise(name):
    with pytest.raises(AttributeError, match="has no attribute"):
        getattr(tfgpt2, name)
