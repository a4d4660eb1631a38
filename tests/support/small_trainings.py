"""Small training runs: a generated text, settings that train in seconds, and ways to run them."""

import io
import json
import os
import signal
import subprocess
import sys
import time

from rich.console import Console

from tfgpt2.training.settings import TrainSettings, write_yaml
from tfgpt2.training.trainer import Trainer

LINE = "{name}:\nWhat say you of the {thing}? It was a {thing}, I say, and no {other}.\n\n"
NAMES, THINGS = ("ANNA", "BERT", "CARL"), ("horse", "crown", "ghost", "letter")


def write_text(path, repeats=4):
    lines = [LINE.format(name=n, thing=t, other=o) for n in NAMES for t in THINGS for o in THINGS]
    path.write_text("".join(lines * repeats))
    return path


def settings(folder, name="out", **options):
    """Settings of a training run of a few milliseconds per step."""
    text = folder / "text.txt"
    if not text.exists():
        write_text(text)
    values = dict(
        texts=str(text), output=str(folder / name), tokenizer="shakespeare-tiny", n_layer=1,
        n_head=2, n_embd=16, n_positions=16, batch_size=4, steps=8, eval_every=4, log_every=1,
        learning_rate=0.01, warmup=1, dropout=0.3, seed=3, strategy="none",
    )  # fmt: skip
    return TrainSettings(**values | options)


def console():
    return Console(file=io.StringIO(), width=100)


def run(settings, resume=False, **options):
    trainer = Trainer(settings, console=options.pop("console", None) or console(), **options)
    trainer.report = trainer.run(resume=resume)
    return trainer


def run_command(settings, *more, config=None, stop_at=None, number=signal.SIGKILL, timeout=300):
    """Runs `tfgpt2 train` in a new process, and signals it when the log has `stop_at` steps."""
    config = config or (str(settings.output) + ".yaml")
    write_yaml(settings, config)
    process = subprocess.Popen(
        [sys.executable, "-m", "tfgpt2.cli", "train", "--config", config, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if stop_at is not None:
        log = os.path.join(settings.output, "log.jsonl")
        for _ in range(timeout * 10):
            time.sleep(0.1)
            if process.poll() is not None:
                break
            # One line more than steps: that of step 0.
            if os.path.exists(log) and len(open(log).read().split("\n")) > stop_at + 1:
                process.send_signal(number)
                break
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def read_log(folder):
    text = (folder / "log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
