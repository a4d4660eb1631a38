"""The commands: what they print, to which stream, and how they fail."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from tfgpt2.cli.main import app
from tfgpt2.serving.server.settings import BatchSettings, ServerSettings
from tfgpt2.version import __version__


def run_process(*arguments, stdin=""):
    command = [sys.executable, "-m", "tfgpt2.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=300)


def test_every_server_setting_is_a_flag():
    text = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    for settings in (ServerSettings, BatchSettings):
        for field in dataclasses.fields(settings):
            if "help" in field.metadata:
                flag = field.metadata.get("flag", field.name).replace("_", "-")
                assert f"--{flag} " in text and field.metadata["help"] in text


@pytest.mark.parametrize(
    ("label", "expected"),
    [("m/stable=007", 7), ("m/a=9223372036854775808", None), ("m/a=²", None), ("m=1", None)],
)
def test_labels_name_versions_as_folders_do(monkeypatch, tmp_path, label, expected):
    received = []
    monkeypatch.setattr(
        "tfgpt2.serving.server.run.run", lambda settings, _: received.append(settings)
    )
    monkeypatch.setattr("os._exit", sys.exit)
    done = CliRunner().invoke(app, ["serve", "--model", f"m={tmp_path}", "--label", label])
    if expected is None:
        assert isinstance(done.exception, ValueError)
        assert "must be NAME/LABEL=VERSION" in str(done.exception)
    else:
        assert received[0].labels == {"m": {"stable": expected}}


def commands(group=None, names=()):
    """The names of all commands, those of groups included."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*names, name))
        else:
            yield (*names, name)


def test_help_of_80_columns_cuts_no_name_and_shows_defaults_in_one_style(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for command in commands():
        text = run(*command, "-h")
        assert "…" not in text, (command, text)
        assert not re.search(r"; default|Default:|otherwise\.", text), (command, text)
    assert "[default: cosine]" in run("train", "-h")


def test_serve_passes_its_flags_to_the_server(monkeypatch, tmp_path):
    received = []
    monkeypatch.setattr(
        "tfgpt2.serving.server.run.run", lambda settings, _: received.append(settings)
    )
    monkeypatch.setattr("os._exit", sys.exit)
    flags = ("--no-batching", "--batch-threads", "5", "--grpc-port", "-1", "--label", "m/stable=3")
    CliRunner().invoke(app, ["serve", "--model", f"m={tmp_path}", *flags])
    batching = BatchSettings(enabled=False, num_batch_threads=5)
    labels = {"m": {"stable": 3}}
    assert received == [ServerSettings({"m": tmp_path}, labels, grpc_port=-1, batching=batching)]


@pytest.mark.long
def test_generate_continues_a_prompt_and_repeats_with_a_seed(run):
    options = ("generate", "ROMEO:\n", "-n", "12", "--seed", "1")
    first = run(*options)
    assert first.startswith("ROMEO:\n") and len(first) > len("ROMEO:\n") + 5
    assert run(*options) == first
    assert run("generate", "-n", "12", "--seed", "1", stdin="ROMEO:\n") == first
    assert run(*options[:-1], "2") != first


@pytest.mark.long
def test_generate_ends_before_a_stop_string(run):
    text = run("generate", "ROMEO:\n", "-n", "40", "--temperature", "0", "--stop", "e")
    assert "e" not in text.removeprefix("ROMEO:\n")


def test_tokenize_shows_ids_and_bytes(run):
    lines = run("tokenize", "Hello there").splitlines()
    assert all(len(line.split("\t")) == 2 for line in lines)
    assert b"".join(eval(line.split("\t")[1]) for line in lines) == b"Hello there"


def test_info_names_the_size_of_the_model(run):
    text = run("info")
    assert "3,917,312" in text and "256 tokens" in text and "1,024 in the model" in text


@pytest.mark.long
def test_export_and_convert_write_their_files(run, tmp_path):
    text = run("export", tmp_path / "1", "--no-jit-compile", "--no-check")
    assert "serving_default" in text and (tmp_path / "1" / "saved_model.pb").is_file()
    text = run("convert", "shakespeare-tiny", tmp_path / "half", "--dtype", "float16")
    assert "76 tensors" in text and (tmp_path / "half" / "model.safetensors").is_file()


@pytest.mark.long
def test_the_program_streams_text_to_stdout_and_everything_else_to_stderr():
    done = run_process("generate", "-", "-n", "8", "--seed", "3", stdin="JULIET:\n")
    assert done.returncode == 0
    assert done.stdout.startswith("JULIET:\n")
    assert "oneDNN" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("info", "-m", "no/such/model"), "No local directory", marks=pytest.mark.long),
        pytest.param(("generate", "x", "--top-p", "3"), "`top_p` must be", marks=pytest.mark.long),
    ],
)
def test_an_error_is_one_message_without_a_traceback(arguments, message):
    done = run_process(*arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert message in done.stderr and "Received" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_an_option_and_help_has_a_short_one(run):
    assert run("--version") == f"tfgpt2 {__version__}\n"
    for command in ("generate", "eval", "batch"):
        assert run(command, "-h") == run(command, "--help")
    assert f"tfgpt2 {__version__}, TensorFlow 2." in run("version")


def test_the_shell_completes_commands_and_models(run):
    def complete(line):
        done = CliRunner().invoke(
            app, [], prog_name="tfgpt2",
            env={"_TFGPT2_COMPLETE": "complete_bash", "COMP_WORDS": line,
                 "COMP_CWORD": str(len(line.split(" ")) - 1)},
        )  # fmt: skip
        return done.output.split()

    assert "generate" in complete("tfgpt2 gen")
    assert "shakespeare-tiny" in complete("tfgpt2 info --model shak")


# What must need no TensorFlow.
LIGHT = """
import os, sys
from tfgpt2.cli.main import app

assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == sys.argv.pop(), "quiet, unless the user says otherwise"
try: app(["--help"])
except SystemExit: pass
try: app(["info", "-m", "shakespear-tiny"])
except FileNotFoundError as error: assert "Did you mean 'shakespeare-tiny'" in str(error)
else: raise SystemExit("accepted")
sys.modules |= dict.fromkeys(["yaml", "matplotlib", "starlette", "pyarrow", "prompt_toolkit"])
for command in (["train"], ["serve", "x"], ["inspect", "x", "-o", "a.png"], ["chat"],
                ["batch", "score", "a.parquet", "-o", "x"],
                ["batch", "score", "a.txt", "-o", "x", "--format", "parquet"]):
    try: app(command)
    except ImportError as error:
        assert "not installed. Run: pip install 'tfgpt2[" in str(error), error
    else: raise SystemExit(f"{command} accepted")
assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize("level", [None, "0"])
def test_help_misspelt_models_and_missing_extras_need_no_tensorflow(level):
    environment = {name: v for name, v in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": level} if level else {}
    command = [sys.executable, "-c", LIGHT, level or "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout and "convert" in done.stdout
