"""The command line, as a user runs it: what it prints, where, and how it fails."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tfgpt2.cli import main as cli


@pytest.fixture
def run(monkeypatch):
    # The commands themselves; the process around them is tested below.
    monkeypatch.setenv("TFGPT2_TRACEBACK", "1")

    def invoke(*arguments, stdin=None):
        result = CliRunner().invoke(cli.app, [str(a) for a in arguments], input=stdin)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    return invoke


def program(*arguments, stdin=""):
    command = [sys.executable, "-m", "tfgpt2.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=300)


@pytest.mark.long
def test_generate_continues_a_prompt_and_repeats_with_a_seed(run):
    options = ("generate", "ROMEO:\n", "-n", "12", "--seed", "1")
    first = run(*options)
    assert first.startswith("ROMEO:\n") and len(first) > len("ROMEO:\n") + 5
    assert run(*options) == first
    assert run("generate", "-n", "12", "--seed", "1", stdin="ROMEO:\n") == first
    assert run(*options[:-1], "2") != first


@pytest.mark.long
def test_generate_stops_where_it_is_told(run):
    text = run("generate", "ROMEO:\n", "-n", "40", "--temperature", "0", "--stop", "e")
    assert "e" not in text.removeprefix("ROMEO:\n")


def test_tokenize_shows_ids_and_bytes(run):
    lines = run("tokenize", "Hello there").splitlines()
    assert all(len(line.split("\t")) == 2 for line in lines)
    assert b"".join(eval(line.split("\t")[1]) for line in lines) == b"Hello there"


def test_info_names_the_size_of_the_model(run):
    text = run("info")
    assert "3,917,312" in text and "256 tokens" in text and "1,024 in the model" in text


def test_export_and_convert_write_what_they_say(run, tmp_path):
    text = run("export", tmp_path / "1", "--no-jit-compile", "--no-check")
    assert "serving_default" in text and (tmp_path / "1" / "saved_model.pb").is_file()
    text = run("convert", "shakespeare-tiny", tmp_path / "half", "--dtype", "float16")
    assert "76 tensors" in text and (tmp_path / "half" / "model.safetensors").is_file()


def test_the_program_streams_text_to_stdout_and_everything_else_to_stderr():
    done = program("generate", "-", "-n", "8", "--seed", "3", stdin="JULIET:\n")
    assert done.returncode == 0
    assert done.stdout.startswith("JULIET:\n")
    assert "oneDNN" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "-m", "no/such/model"), "No local directory"),
        (("generate", "x", "--top-p", "3"), "`top_p` must be"),
    ],
)
def test_an_error_is_one_message_without_a_traceback(arguments, message):
    done = program(*arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert message in done.stderr and "Received" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_no_tensorflow():
    code = (
        "import sys; from tfgpt2 import cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout and "convert" in done.stdout
