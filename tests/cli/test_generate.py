"""`tfgpt2 generate`: files, JSON, constraints, beams, and the closing line."""

import json

import pytest
from typer.testing import CliRunner

from tfgpt2.cli.main import app
from tfgpt2.text.generator import TextGenerator
from tfgpt2.text.records import Generation


class Answers:
    """Stands in for a generator, and records the options of its calls."""

    def __init__(self):
        self.calls = []

    def generate(self, prompts, *, details, **options):
        self.calls.append(options)
        record = Generation(" so.", b" so.", [1, 2], 3, 0, -1.5, [-0.5, -1.0], "length")
        count = options.get("num_return_sequences", 1)
        return [[record] * count if count > 1 else record for _ in prompts]

    def stream(self, prompt, **options):
        self.calls.append(options)
        yield " so"
        yield "."
        return 2


@pytest.fixture
def answers(monkeypatch):
    made = Answers()
    monkeypatch.setattr(TextGenerator, "from_pretrained", lambda *_, **__: made)
    return made


@pytest.fixture
def notes(monkeypatch):
    """What the commands note on standard error."""
    from rich.console import Console

    from tfgpt2.cli import generate

    console = Console(record=True, file=open("/dev/null", "w"), width=80)
    monkeypatch.setattr(generate, "notes", console)
    return console


def test_text_is_streamed_and_a_line_closes_it(run, answers, notes):
    assert run("generate", "Be it", "-n", "7") == "Be it so.\n"
    assert answers.calls == [{"max_new_tokens": 7}]
    assert notes.export_text().startswith("2 tokens, ")


def test_files_are_continued_together(run, answers, tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(f"text {name}")
    files = ("-f", tmp_path / "a", "-f", tmp_path / "b")
    text = run("generate", *files)
    assert text == f"==> {tmp_path}/a <==\ntext a so.\n\n==> {tmp_path}/b <==\ntext b so.\n"
    rows = [json.loads(line) for line in run("generate", *files, "--json").splitlines()]
    assert [row["file"] for row in rows] == [str(tmp_path / name) for name in "ab"]
    assert rows[0]["prompt"] == "text a" and rows[0]["token_logprobs"] == [-0.5, -1.0]
    both = CliRunner().invoke(app, ["generate", "x", "-f", str(tmp_path / "a")])
    assert "not both" in str(both.exception)


def test_constraints_beams_and_other_options_arrive(run, answers, tmp_path):
    schema = {"type": "integer"}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    run("generate", "x", "--choices", "yes", "--choices", "no")
    run("generate", "x", "--regex", "[0-9]+", "--stop", ".")
    run("generate", "x", "--json-schema", tmp_path / "schema.json")
    run("generate", "x", "--json-schema", json.dumps(schema))
    run("generate", "x", "--num-beams", "4", "--option", "length_penalty=0.5")
    assert [{k: v for k, v in one.items() if k != "max_new_tokens"} for one in answers.calls] == [
        {"choices": ["yes", "no"]}, {"regex": "[0-9]+", "stop": ["."]}, {"json_schema": schema},
        {"json_schema": schema}, {"num_beams": 4, "length_penalty": 0.5},
    ]  # fmt: skip
    refused = CliRunner().invoke(app, ["generate", "x", "--json-schema", "{broken"])
    assert "must be a file or an object in JSON" in str(refused.exception)


def test_several_texts_of_one_prompt_have_headings(run, answers):
    text = run("generate", "Be it", "--option", "num_return_sequences=2")
    assert text == "==> 1 <==\nBe it so.\n\n==> 2 <==\nBe it so.\n"


@pytest.mark.long
def test_a_real_model_counts_its_tokens(run, notes):
    text = run("generate", "Is it so? ", "--choices", "yes", "--choices", "no")
    assert text in ("Is it so? yes\n", "Is it so? no\n")
    assert " tokens/s, " in notes.export_text(clear=False)
    run("generate", "ROMEO:\n", "-n", "12", "--seed", "1")
    assert "12 tokens, " in notes.export_text()
