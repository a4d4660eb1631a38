"""Several replicas or processes train like a single one with the same batch size."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support import small_trainings
from tests.support.paths import EXAMPLES, ROOT
from tfgpt2.training import distribution
from tfgpt2.training.settings import write_yaml


def ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


def start(settings, config, workers, *more):
    """Starts the workers of one training on this machine."""
    write_yaml(settings, config)
    cluster = [f"127.0.0.1:{port}" for port in ports(workers)]
    found = []
    for index in range(workers):
        task = {"cluster": {"worker": cluster}, "task": {"type": "worker", "index": index}}
        found.append(
            subprocess.Popen(
                [sys.executable, "-m", "tfgpt2.cli", "train", "--config", config, *more],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"TF_CONFIG": json.dumps(task), "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        )
    return found


def finish(processes, timeout=400):
    try:
        return [p.communicate(timeout=timeout)[1] for p in processes]
    finally:
        for process in processes:
            process.kill()


def numbers(folder, name):
    return [line[name] for line in small_trainings.read_log(folder) if name in line]


@pytest.mark.long
def test_two_workers_train_like_one_and_resume_after_a_kill(tmp_path):
    options = dict(steps=40, eval_every=10, dropout=0.0, strategy="auto", batch_size=4)
    small_trainings.write_text(tmp_path / "held.txt", repeats=1)
    options["validation"] = str(tmp_path / "held.txt")
    alone = small_trainings.run(small_trainings.settings(tmp_path, "alone", **options))
    assert alone.held_out.blocks(16) % 2 == 0  # so that both evaluate on the same blocks
    both = small_trainings.settings(tmp_path, "both", **options)
    config = str(tmp_path / "both.yaml")
    processes = start(both, config, 2)
    errors = finish(processes)
    assert [p.returncode for p in processes] == [0, 0], errors
    for name in ("loss", "val_loss", "learning_rate"):
        first, second = (numbers(tmp_path / n, name) for n in ("alone", "both"))
        np.testing.assert_allclose(first, second, atol=1e-4)
    assert sorted(p.name for p in (tmp_path / "both/checkpoints").iterdir())[-1].endswith("40")

    cut = small_trainings.settings(tmp_path, "cut", **options, checkpoint_every=5)
    config = str(tmp_path / "cut.yaml")
    processes = start(cut, config, 2)
    for _ in range(2000):
        time.sleep(0.1)
        if (tmp_path / "cut/log.jsonl").exists() and len(
            small_trainings.read_log(tmp_path / "cut")
        ) > 18:
            break
    processes[1].send_signal(signal.SIGKILL)
    errors = finish(processes)
    assert processes[0].returncode not in (0, None), "one worker alone must not continue"
    assert "--resume" in errors[0], errors
    processes = start(cut, config, 2, "--resume")
    errors = finish(processes)
    assert [p.returncode for p in processes] == [0, 0], errors
    for name in ("loss", "val_loss"):
        first, second = (numbers(tmp_path / n, name) for n in ("alone", "cut"))
        np.testing.assert_allclose(first, second, atol=1e-4)


@pytest.mark.long
def test_two_replicas_train_like_one(tmp_path):
    # A new process: devices cannot be divided after TensorFlow is initialized.
    program = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import pathlib
from tests.support import small_trainings
folder = pathlib.Path(sys.argv[1])
for name, strategy in (("one", "none"), ("two", "mirrored")):
    options = dict(dropout=0.0, steps=6, eval_every=3, strategy=strategy, ema=0.9, warmup=2)
    options["validation"] = str(small_trainings.write_text(folder / "held.txt", repeats=1))
    trainer = small_trainings.run(small_trainings.settings(folder, name, **options))
    print(trainer.strategy.num_replicas_in_sync)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["1", "2"]
    for name in ("loss", "val_loss"):
        first, second = (numbers(tmp_path / n, name) for n in ("one", "two"))
        assert len(first) == len(second) >= 2
        np.testing.assert_allclose(first, second, atol=1e-4)


def test_errors_of_strategies(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert distribution.make_strategy("auto").num_replicas_in_sync == 1
    with pytest.raises(ValueError, match="TF_CONFIG"):
        distribution.make_strategy("multi_worker")
    for wrong in ("{", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker",'
                  ' "index": 1}}'):  # fmt: skip
        monkeypatch.setenv("TF_CONFIG", wrong)
        with pytest.raises(ValueError, match="TF_CONFIG is not valid"):
            distribution.make_strategy("auto")
    with pytest.raises(ValueError, match="mirored"):
        distribution.make_strategy("mirored")


def test_a_single_replica_is_not_patched():
    model = keras.Sequential([keras.layers.Dense(1)])
    before = model.train_step
    distribution.prepare(model, tf.distribute.get_strategy())
    assert model.train_step == before
    distribution.check_same_step(tf.distribute.get_strategy(), 3)


@pytest.mark.long
def test_the_example_trains_with_two_workers(tmp_path):
    text = small_trainings.write_text(tmp_path / "text.txt")
    program = EXAMPLES / "11_multi_worker.py"
    done = subprocess.run(
        [sys.executable, program, "--text", text, "--output", tmp_path / "out", "--steps", "3",
         "--block-size", "16", "--batch", "4"],
        capture_output=True, text=True, timeout=400, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "worker 1: TF_CONFIG=" in done.stdout
    assert tfgpt2.TextGenerator.from_pretrained(tmp_path / "out").model.config.n_layer == 6
    assert len(small_trainings.read_log(tmp_path / "out")) >= 1
