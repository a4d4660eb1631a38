"""`tfgpt2 batch`: flags, messages, and real kills of the process."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from tests.support.batch_jobs import contents, read_lines, write_lines
from tfgpt2.cli.main import app

WORDS = "To be or not to be that is the question whether tis nobler in the mind to suffer".split()


@pytest.fixture
def received(monkeypatch):
    """The arguments with which the command makes its job."""
    made = []

    def job(task, inputs, output, model, settings):
        made.append((task, inputs, output, model, settings))
        raise ValueError("not in this test")

    monkeypatch.setattr("tfgpt2.batch.job.Job", job)
    return made


def invoke(*arguments):
    return CliRunner().invoke(app, ["batch", *map(str, arguments)])


def test_flags_become_task_and_settings(received):
    from tfgpt2.batch.settings import JobSettings
    from tfgpt2.batch.tasks.generate import Generate
    from tfgpt2.batch.tasks.text_scoring import Embed, Score

    invoke(
        *("generate", "a.jsonl", "b.csv", "-o", "out", "-m", "m", "-n", "5", "-t", "0.5"),
        *("--stop", ".", "--stop", "\n", "--setting-column", "seed=n"),
        *("--setting-column", "top_p", "--option", "num_beams=2", "--option", "regex=[a-z]+"),
        *("--prefix", "P ", "--on-long-prompt", "error", "--token-details"),
        *("--batch-size", "3", "--rows-per-file", "9", "--format", "parquet", "--shard", "1/2"),
        *("--on-error", "stop", "--result-prefix", "r_", "--no-jit-compile", "--text-column", "t"),
    )
    options = {"max_new_tokens": 5, "temperature": 0.5, "num_beams": 2, "regex": "[a-z]+"}
    columns = {"seed": "n", "top_p": "top_p"}
    settings = JobSettings("t", 3, 9, "parquet", "stop", "r_", "1/2", False)
    task = Generate(options, (".", "\n"), columns, "P ", "error", True)
    invoke("score", "a.txt", "-o", "out", "--token-details")
    invoke("embed", "a.txt", "-o", "out", "--pooling", "last")
    invoke("generate", "a.txt", "-o", "out")
    assert received == [
        (task, ["a.jsonl", "b.csv"], "out", "m", settings),
        (Score(True), ["a.txt"], "out", "shakespeare-tiny", JobSettings()),
        (Embed("last"), ["a.txt"], "out", "shakespeare-tiny", JobSettings()),
        (Generate(), ["a.txt"], "out", "shakespeare-tiny", JobSettings()),
    ]


def test_a_wrong_flag_is_one_clear_error(received):
    found = invoke("generate", "a.jsonl", "-o", "out", "--option", "num_beams")
    assert "`--option` must be NAME=VALUE" in str(found.exception)
    found = invoke("generate", "a.jsonl", "-o", "out", "--shard", "3/3")
    assert "`shard` must be i/n" in str(found.exception)
    assert received == []


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "tfgpt2.cli", "batch", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.long
def test_a_job_that_is_killed_20_times_ends_with_the_same_bytes(tiny, tmp_path, figure):
    """SIGKILL after a random time, from the start of the process to the end of the job."""
    chance = random.Random(5)
    rows = [
        {"id": i, "text": " ".join(chance.choices(WORDS, k=chance.randrange(1, 20)))}
        for i in range(800)
    ]
    source = write_lines(tmp_path / "in.jsonl", rows)
    # Scoring is traced fastest, and a process of each life must do it again.
    arguments = ["score", source, "-m", tiny, "--token-details", "--no-jit-compile"]
    arguments += ["--rows-per-file", 8, "-b", 8]
    whole = start(*arguments, "-o", tmp_path / "whole")
    _, note = whole.communicate(timeout=600)
    assert whole.returncode == 0 and "800 rows, 0 with an error" in note
    killed, left, steps, output = 0, 0, set(), tmp_path / "out"
    while True:
        process = start(*arguments, "-o", output)
        before = len(list(output.glob("part-*")))
        if killed < 20 and killed % 4:  # after a few files, a quarter of the kills before them
            last = before + chance.randrange(1, 4)
            while process.poll() is None and len(list(output.glob("part-*"))) < last:
                time.sleep(0.005)
        if killed < 20:
            try:
                process.wait(chance.uniform(0, 0.05 if killed % 4 else 3))
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
        _, note = process.communicate(timeout=600)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, note
        killed += 1
        steps.add(len(list(output.glob("part-*"))))
        left += any(path.name.startswith(".part") for path in output.glob(".*"))
    assert killed == 20 and len(steps) > 5
    assert contents(output) == contents(tmp_path / "whole")
    figure("kills that a batch job survived", killed)
    figure("kills that left a temporary file", left)
    # Again it computes nothing, and it refuses other settings.
    again = start(*arguments, "-o", output)
    assert "0 rows" in again.communicate(timeout=600)[1] and again.returncode == 0
    other = start(*arguments, "-o", output, "--batch-size", 4)
    assert "is of a job with other" in other.communicate(timeout=600)[1] and other.returncode == 1
    assert contents(output) == contents(tmp_path / "whole")
    assert [row["id"] for row in read_lines(output)] == list(range(800))
    assert json.loads((output / "_SUCCESS").read_text()) == {"files": 100, "rows": 800}
