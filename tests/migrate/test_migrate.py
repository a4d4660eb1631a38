"""`tfgpt2 migrate`: programs it reports as unchanged run, and lines it would change fail."""

import inspect
import io
import json
import traceback

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.support.migrate_programs import FAIL, START, WORK
from tfgpt2.cli import main as cli
from tfgpt2.migrate import advice, introspect
from tfgpt2.migrate.check import check
from tfgpt2.migrate.report import migrate
from tfgpt2.migrate.rewrite import rewrite_imports
from tfgpt2.migrate.usage import UNKNOWN, find_usages

NAME = "shakespeare-tiny"


def check_source(source):
    return [check(usage) for usage in find_usages(source)]


def changes(source):
    return {v.usage.line: v for v in check_source(source) if v.status == "change"}


def run(source):
    exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})


def mostly_quick(programs):
    """The programs' names; those that compile or train are long proofs."""
    slow = ("generation", "training", "optimizer", "loss of Keras", "own loss")
    return [pytest.param(n, marks=pytest.mark.long if n.startswith(slow) else ()) for n in programs]


def command(*arguments):
    return CliRunner().invoke(cli.app, ["migrate", *map(str, arguments)])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*freshly initialised")
@pytest.mark.parametrize("name", mostly_quick(WORK))
def test_unchanged_programs_run(name):
    source = WORK[name].replace("MODEL", NAME)
    findings = check_source(source)
    assert {v.status for v in findings} <= {"import", "unchanged", "unclear"}
    assert any(v.status == "unchanged" for v in findings)
    new = rewrite_imports(source, findings)
    assert "from transformers" not in new and "import transformers" not in new
    assert {v.status for v in check_source(new)} <= {"unchanged", "unclear"}
    run(new)


@pytest.mark.filterwarnings("ignore:.*freshly initialised")
@pytest.mark.parametrize("name", mostly_quick(FAIL))
def test_programs_to_change_fail(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = (START + FAIL[name]).replace("MODEL", NAME)
    lines = {n: line for n, line in enumerate(source.splitlines(), 1)}
    expected = [n for n, line in lines.items() if line.endswith("# change")]
    assert list(changes(source)) == expected
    assert rewrite_imports(source, check_source(source)) is None  # not rewritten
    assert len(WORK) + len(FAIL) >= 40
    fails = [n for n, line in lines.items() if line.endswith("# fails")] or expected
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011
        run(source.replace("from transformers", "from tfgpt2"))
    where = [f.lineno for f in traceback.extract_tb(caught.tb) if f.filename == "program.py"]
    assert where[0] == fails[0]


@pytest.mark.parametrize("name", sorted(advice.NAMES))
def test_missing_names(name):
    source = f"from transformers import {name} as X"
    assert [v.write for v in check_source(source)] == [advice.NAMES[name]]
    with pytest.raises(ImportError):
        run(source.replace("transformers", "tfgpt2"))


def test_names_in_the_advice_exist():
    """Every `tfgpt2.Name` in the tables exists."""
    import re

    import tfgpt2

    tables = (advice.NAMES, advice.MEMBERS, advice.KEYWORDS, advice.KERAS_HUB, advice.GPT_2_SIMPLE)
    texts = " ".join(text for table in tables for text in table.values())
    found = set(re.findall(r"tfgpt2\.(\w+)", texts))
    assert {"TextGenerator", "TFGPT2Tokenizer"} <= found
    for name in found:
        assert name in tfgpt2.__all__ or __import__(f"tfgpt2.{name}")


@pytest.mark.parametrize("name", sorted(advice.MEMBERS))
def test_missing_members(name):
    if name == "to":
        paths = [("AutoTokenizer", "()", "()", "to")]
    else:
        paths = [("TFGPT2LMHeadModel", "()", name), ("AutoTokenizer", "()", name)]
    for path in paths:
        with pytest.raises(introspect.Missing):
            introspect.resolve(path)


@pytest.mark.parametrize("method, keyword", sorted(advice.KEYWORDS))
def test_refused_keywords(method, keyword):
    model = ("TFGPT2LMHeadModel", method)
    path = {"from_pretrained": model, "save_pretrained": (model[0], "()", method)}[method]
    value = True if keyword == "push_to_hub" else UNKNOWN
    assert introspect.refusal(path, (), {keyword: value}).keyword == keyword


@pytest.mark.parametrize("cls", ["TFGPT2LMHeadModel", "TFGPT2Model"])
def test_keywords_follow_the_signatures(cls, monkeypatch):
    """A keyword added to a signature is accepted: there is no list to update."""
    import tfgpt2

    kind = getattr(tfgpt2, cls)
    for keyword in inspect.signature(kind.call).parameters:
        if keyword != "self":
            assert introspect.refusal((cls, "()"), (), {keyword: UNKNOWN}) is None
    real = kind.save_pretrained

    def save_pretrained(self, directory, signatures=None):
        return real(self, directory)

    assert introspect.refusal((cls, "()", "save_pretrained"), ("x",), {"signatures": True})
    monkeypatch.setattr(kind, "save_pretrained", save_pretrained)
    assert introspect.refusal((cls, "()", "save_pretrained"), ("x",), {"signatures": True}) is None


def test_names_are_followed():
    source = """
import transformers
from transformers import TFGPT2LMHeadModel as Model
def load() -> None:
    global_name = transformers.TFGPT2Model.from_pretrained(NAME, use_safetensors=True)
def use(model: Model, other, **more):
    model.generate(x, top_kk=1)
    other.generate(x, top_kk=1)
    model.generate(x, **more)
    model.generate(x, **{"top_kk": 1})
a = b = Model.from_pretrained(NAME)
b.generate(x, topp=1)
b = other
b.generate(x, topp=1)
with Model.from_pretrained(NAME) as c:
    c.push_to_hub
class A:
    def f(self):
        self.model.push_to_hub()
    def __init__(self):
        self.model = Model.from_pretrained(NAME)
"""
    assert sorted(changes(source)) == [7, 10, 12, 16, 19]
    assert [v.usage.line for v in check_source(source) if v.status == "unclear"] == [9]


def test_compiled_functions_are_followed():
    """`tf.function` and `functools.partial` return what is called in the end."""
    source = """
import functools
import tensorflow as tf
from functools import partial
from transformers import TFGPT2LMHeadModel
model = TFGPT2LMHeadModel.from_pretrained(NAME)
xla_generate = tf.function(model.generate, jit_compile=True)
xla_generate(ids, force_words_ids=[[5]])
tf.function(model.generate)(ids, top_k=5, do_sample=True)
tf.function(other)(ids, force_words_ids=[[5]])
same = partial(model.generate, max_new_tokens=5)
same(ids, topp=1)
functools.partial(model.push_to_hub, "name")()
"""
    assert sorted(changes(source)) == [8, 12, 13]


def test_other_models_are_left_alone():
    source = (
        "from transformers import BertTokenizer, TFGPT2Model\nBertTokenizer.from_pretrained('b')"
    )
    findings = check_source(source)
    assert [v.status for v in findings] == ["other", "import", "other"]
    assert rewrite_imports(source, findings).splitlines()[:2] == [
        "from transformers import BertTokenizer",
        "from tfgpt2 import TFGPT2Model",
    ]
    mixed = "import transformers\ntransformers.TFGPT2Model\ntransformers.BertModel"
    assert rewrite_imports(mixed, check_source(mixed)) is None


def test_keras_hub_and_gpt_2_simple():
    source = """
import keras_hub
import gpt_2_simple as gpt2
lm = keras_hub.models.GPT2CausalLM.from_preset("gpt2_base_en")
lm.compile(sampler=keras_hub.samplers.TopPSampler(p=0.9))
lm.generate("To be", max_length=30)
session = gpt2.start_tf_sess()
gpt2.generate(session, prefix="To be", length=20)
keras_hub.models.BertBackbone
"""
    found = changes(source)
    assert sorted(found) == [2, 3, 4, 5, 6, 7, 8]
    assert "TextGenerator.from_pretrained" in found[4].write
    assert "max_new_tokens" in found[6].write and "max_new_tokens" in found[8].write


def test_advice_on_keras_hub_is_about_the_call():
    source = """
import keras_hub
lm = keras_hub.models.GPT2CausalLM.from_preset("gpt2_base_en")
lm.compile(sampler="greedy")
lm.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
lm.backbone.enable_lora(4)
backbone = keras_hub.models.GPT2Backbone.from_preset("gpt2_base_en")
backbone.enable_lora(4)
lm.fit(dataset)
"""
    found = changes(source)
    assert "temperature=" in found[4].write and "model.compile" not in found[4].write
    assert found[5].write.startswith("generator.model.compile(")
    assert all("lora.enable_lora(model, rank=" in found[line].write for line in (6, 8))
    assert "data.lm_dataset(texts" in found[9].write


@pytest.fixture
def notes(monkeypatch):
    """What the command notes on standard error."""
    console = Console(record=True, file=io.StringIO(), width=200)
    monkeypatch.setattr("tfgpt2.cli.migrate.notes", console)
    return console


def test_the_command(tmp_path, notes):
    program = tmp_path / "inner" / "program.py"
    program.parent.mkdir()
    old = "# -*- coding: utf-8 -*-\r\nö = 1; from transformers import TFGPT2Model  # ü\r\n"
    program.write_bytes(old.encode())
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "skipped.py").write_text("from transformers import TFGPT2Model")
    (tmp_path / "nothing.py").write_text("import os\n")
    result = command(tmp_path)
    assert result.exit_code == 1 and "1 file, 1 import" in notes.export_text()
    assert result.stdout == (
        f"{program}:2: from transformers import TFGPT2Model -> from tfgpt2 import TFGPT2Model\n"
    )
    assert program.read_bytes() == old.encode()
    found = json.loads(command(tmp_path, "--json").stdout)
    assert found["summary"] == {"files": 1, "unreadable": 0, "unchanged": 0, "import": 1,
                                "change": 0, "unclear": 0, "other": 0}  # fmt: skip
    (site,) = found["files"][0]["sites"]
    assert site["line"] == 2 and site["write"] == "from tfgpt2 import TFGPT2Model"
    assert "+ö = 1; from tfgpt2 import" in found["files"][0]["diff"]
    result = command(tmp_path, "--write")
    assert result.exit_code == 0 and f"{program}: changed 1 import line" in notes.export_text()
    assert program.read_bytes() == old.replace("transformers", "tfgpt2").encode()
    assert command(tmp_path).exit_code == 0
    assert command(tmp_path / "nothing.py").stdout == ""
    assert "Nothing here uses" in notes.export_text()


def test_the_terminal_shows_advice_in_full_and_only_counts_what_stays(tmp_path, notes, monkeypatch):
    path = tmp_path / "program.py"
    path.write_text(
        "from transformers import TFGPT2LMHeadModel, TextStreamer\n"
        "model = TFGPT2LMHeadModel.from_pretrained('gpt2', use_fast=True)\n"
        "model.save_pretrained('mine')\n"
    )
    terminal = Console(record=True, force_terminal=True, file=io.StringIO(), width=80)
    monkeypatch.setattr("tfgpt2.cli.migrate.Console", lambda: terminal)
    assert command(path, "--write").exit_code == 1
    text = " ".join(terminal.export_text().split())
    assert advice.NAMES["TextStreamer"] in text and "…" not in text
    assert "save_pretrained" not in text and "1 usage unchanged" in text
    assert "not changed. 2 usages to change by hand" in notes.export_text()


def test_unreadable_files(tmp_path):
    (tmp_path / "two.py").write_text("print 'Python 2'")
    (tmp_path / "deep.py").write_text("x = " + "(" * 5000 + ")" * 5000)
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe")
    reports = migrate([tmp_path])
    assert len(reports) == 3 and all("valid Python 3" in r.error for r in reports)
    assert command(tmp_path).exit_code == 1
    with pytest.raises(FileNotFoundError, match="There is no such file"):
        migrate([tmp_path / "absent"])
    (tmp_path / "book.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="nbconvert"):
        migrate([tmp_path / "book.ipynb"])


def test_nothing_is_executed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        f"from transformers import TFGPT2Model\nopen({str(tmp_path / 'mark')!r}, 'w')\n"
        f"TFGPT2Model(open({str(tmp_path / 'mark')!r}, 'w'))\n"
    )
    command(program, "--write")
    assert not (tmp_path / "mark").exists()
