"""`tfgpt2 train`: settings from files and flags, output, Ctrl-C, and resuming."""

import dataclasses
import io
import signal

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.support import small_trainings
from tfgpt2.cli.main import app
from tfgpt2.cli.train import merge_settings, summary
from tfgpt2.training.settings import TrainSettings, read_yaml, write_yaml


@pytest.fixture
def trainer_calls(monkeypatch):
    """Records the settings and `resume` of each training run, and trains nothing."""
    calls = []

    class Trainer:
        def __init__(self, settings, console):
            calls.append(settings)

        def run(self, resume):
            from tfgpt2.training.trainer import TrainingReport

            calls.append(resume)
            return TrainingReport(7, 1.25, None, "there", False)

    import tfgpt2.training.trainer

    monkeypatch.setattr(tfgpt2.training.trainer, "Trainer", Trainer)
    return calls


def invoke(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_a_run_says_what_comes_next(trainer_calls, monkeypatch):
    console = Console(record=True, file=io.StringIO())
    monkeypatch.setattr("tfgpt2.cli.train.notes", console)
    invoke("--texts", "x", "--output", "there", "--model", "shakespeare-tiny")
    assert "Next: tfgpt2 generate --model there" in console.export_text()


def test_flags_win_over_the_file(trainer_calls, tmp_path):
    write_yaml(small_trainings.settings(tmp_path, chunked_loss=True, ema=0.9), tmp_path / "a.yaml")
    done = invoke("-c", tmp_path / "a.yaml", "--batch-size", 2, "--no-chunked-loss", "--texts", "x",
                  "--texts", "y", "--schedule", "linear", "--learning-rate", "1e-3")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "there  7 steps, loss 1.2500" in done.output
    settings, resume = trainer_calls
    expected = dict(batch_size=2, chunked_loss=False, texts=("x", "y"), schedule="linear",
                    learning_rate=1e-3)  # fmt: skip
    assert settings == dataclasses.replace(small_trainings.settings(tmp_path, ema=0.9), **expected)
    assert resume is False


def test_every_setting_is_a_flag_with_help():
    text = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    for field in dataclasses.fields(TrainSettings):
        assert f"--{field.name.replace('_', '-')}" in text
        assert field.metadata["help"].split()[0] in text


def test_resume_reads_the_settings_of_the_directory(trainer_calls, tmp_path):
    settings = small_trainings.settings(tmp_path)
    (tmp_path / "out").mkdir()
    write_yaml(settings, tmp_path / "out/train.yaml")
    assert invoke("--resume", "--output", tmp_path / "out", "--keep", 9).exit_code == 0
    assert trainer_calls == [dataclasses.replace(settings, keep=9), True]
    assert "--output" in str(invoke("--resume").exception)


def test_unknown_keys_and_flags_are_named(trainer_calls, tmp_path):
    (tmp_path / "a.yaml").write_text("texts: a\noutput: b\nlearning_rat: 1\n")
    assert "Did you mean 'learning_rate'" in str(invoke("-c", tmp_path / "a.yaml").exception)
    assert "--batch-size" in invoke("--batchsize", 3).output
    assert "cannot be read" in str(invoke("-c", tmp_path / "none.yaml").exception)
    assert not trainer_calls


def test_flags_that_were_not_given_keep_their_defaults():
    given = {"texts": ["a"], "output": "o", "model": "m", "freeze": [], "ema": None, "keep": 1}
    settings = merge_settings(None, False, given)
    assert settings == TrainSettings(texts=("a",), output="o", model="m", keep=1)


@pytest.mark.parametrize(
    ("losses", "line"),
    [
        ((1.25, None, None, None), "7 steps, loss 1.2500"),
        ((1.25, None, 2.5, None), "7 steps, loss 2.5000 -> 1.2500"),
        ((1.25, 2.0, 3.0, 5), "7 steps, validation loss 3.0000 -> 2.0000, best at step 5"),
    ],
)
def test_the_closing_line_compares_before_and_after(losses, line):
    from tfgpt2.training.trainer import TrainingReport

    loss, val_loss, before, best = losses
    report = TrainingReport(7, loss, val_loss, "there", False, before, best)
    assert summary(report) == line


@pytest.mark.long
def test_ctrl_c_saves_a_checkpoint_and_prints_how_to_resume(tmp_path):
    settings = small_trainings.settings(tmp_path, steps=3000, eval_every=3000)
    code, _, err = small_trainings.run_command(settings, stop_at=10, number=signal.SIGINT)
    assert code == 130, err
    assert f"tfgpt2 train --resume --output {tmp_path / 'out'}" in err.replace("\n", "")
    (saved,) = (tmp_path / "out/checkpoints").iterdir()
    assert saved.name[5:].lstrip("0") in err
    assert read_yaml(tmp_path / "out/train.yaml")["steps"] == 3000
    more = ["--resume", "--steps", "3000"]
    code, _, err = small_trainings.run_command(settings, *more, stop_at=20, number=signal.SIGINT)
    assert code == 130 and "Resuming after step" in err


@pytest.mark.long
def test_a_real_text_from_the_command_line(tmp_path, shared_data):
    settings = small_trainings.settings(
        tmp_path, texts=str(shared_data / "text/tinyshakespeare.txt"), n_embd=64, n_positions=64,
        steps=120, eval_every=60, batch_size=8, log_every=10, learning_rate=3e-3,
    )  # fmt: skip
    code, out, err = small_trainings.run_command(settings)
    assert code == 0, err
    assert "120 steps" in out and "validation" in out and "step 120/120" in err
    losses = [line["loss"] for line in small_trainings.read_log(tmp_path / "out") if "loss" in line]
    assert losses[-1] < 6 < losses[0]
