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


# TensorFlow is imported once, and each life of the job is a fork from before its first operation.
LIVES = """
import os, sys
from tfgpt2.batch.job import run_job
from tfgpt2.batch.settings import JobSettings
from tfgpt2.batch.tasks.text_scoring import Score

source, model = sys.argv[1:]
settings = JobSettings(batch_size=8, rows_per_file=8, jit_compile=False)
for output in sys.stdin:
    life = os.fork()
    if not life:
        run_job(Score(token_details=True), [source], output.strip(), model=model, settings=settings)
        os._exit(0)
    print(life, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(life, 0)[1]), flush=True)
"""


@pytest.mark.long
def test_a_job_that_is_killed_20_times_ends_with_the_same_bytes(tiny, tmp_path, figure):
    """SIGKILL while the model is loaded, or a random time after one to three more files."""
    chance, output = random.Random(5), tmp_path / "out"
    rows = [
        {"id": i, "text": " ".join(chance.choices(WORDS, k=chance.randrange(1, 20)))}
        for i in range(800)
    ]
    source = write_lines(tmp_path / "in.jsonl", rows)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    killed, left, steps = 0, 0, set()
    with subprocess.Popen([sys.executable, "-c", LIVES, source, tiny], **pipes) as lives:

        def begin(folder):
            lives.stdin.write(f"{folder}\n")
            lives.stdin.flush()
            return int(lives.stdout.readline())

        begin(tmp_path / "whole")
        assert lives.stdout.readline() == "0\n"
        while killed < 20:
            until = len(list(output.glob("part-*"))) + chance.randrange(1, 4)
            process = begin(output)
            while killed % 4 and len(list(output.glob("part-*"))) < until:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.03 if killed % 4 else 1))
            os.kill(process, signal.SIGKILL)
            assert lives.stdout.readline() == f"{-signal.SIGKILL}\n"
            killed += 1
            steps.add(len(list(output.glob("part-*"))))
            left += any(path.name.startswith(".part") for path in output.glob(".*"))
        begin(output)
        assert lives.stdout.readline() == "0\n"
        lives.stdin.close()
    assert len(steps) > 10
    assert contents(output) == contents(tmp_path / "whole")
    assert [row["id"] for row in read_lines(output)] == list(range(800))
    assert json.loads((output / "_SUCCESS").read_text()) == {"files": 100, "rows": 800}
    figure("kills that a batch job survived", killed)
    figure("kills that left a temporary file", left)
