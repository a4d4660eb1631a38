"""A resumed training run ends with the weights of an uninterrupted one, bit for bit."""

import errno
import json
import os
import random
import signal

import keras
import numpy as np
import pytest

from tests.support import small_trainings
from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
from tfgpt2.training import checkpoint, recipes
from tfgpt2.training.callbacks import TrainingStopped
from tfgpt2.training.settings import read_yaml


def values(model):
    own = [keras.ops.convert_to_numpy(v) for v in model.variables]
    return own + [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]


def assert_same(first, second):
    for one, other in zip(values(first), values(second), strict=True):
        np.testing.assert_array_equal(one, other)


class StopAfter(keras.callbacks.Callback):
    """Raises after some batches, without saving, as a crash would."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyError("interrupted")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run with all kinds of state: dropout, averages, two epochs."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, small_trainings.run(
        small_trainings.settings(folder, ema=0.9, accumulate=2, steps=8)
    )


@pytest.mark.long  # a quick one: test_output_files.py resumes after a full disk
@pytest.mark.parametrize("cut, step", [(9, 4), (15, 6)])
def test_an_interrupted_run_resumes_exactly(whole, cut, step):
    folder, reference = whole
    settings = small_trainings.settings(
        folder, f"cut{cut}", ema=0.9, accumulate=2, steps=8, checkpoint_every=2, keep=2
    )
    settings_log = folder / f"cut{cut}"
    with pytest.raises(KeyError):
        small_trainings.run(settings, callbacks=[StopAfter(cut)])
    found = sorted(path.name for path in (settings_log / "checkpoints").iterdir())
    assert found[-1] == f"step-{step:08d}" and len(found) == 2
    again = small_trainings.run(settings, resume=True)
    assert_same(reference.model, again.model)
    # The log is the same, too.
    mine, other = small_trainings.read_log(settings_log), small_trainings.read_log(folder / "out")
    assert [line["step"] for line in mine] == [line["step"] for line in other]
    for a, b in zip(mine, other, strict=True):
        for name in ("loss", "val_loss"):
            assert a.get(name) == pytest.approx(b.get(name), abs=1e-5)


@pytest.mark.long
def test_dropout_and_order_differ_between_steps(whole):
    # Otherwise the test above would prove little.
    folder, reference = whole
    seeds = [v for v in reference.model.variables if "seed_generator" in v.path]
    assert len(seeds) == 1 and int(seeds[0][1]) == 16  # one for each batch


def small(**options):
    keras.utils.set_random_seed(0)
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, n_positions=8)
    model = TFGPT2LMHeadModel(config)
    model.compile(recipes.adamw(model, 0.01, **options))
    return model


IDENTITY = {"config": {"n_layer": 1}, "recipe": {"seed": 1, "batch_size": 4}, "data": {"tokens": 9}}


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    model = small()
    store = checkpoint.Checkpoints(tmp_path, IDENTITY, keep=1)
    store.save(model, 1)
    before = values(model)
    model.transformer.wte.weight.assign_add(np.ones([10, 8], np.float32))
    real = checkpoint.save_file

    def full(arrays, path):
        real({key: arrays[key] for key in list(arrays)[:3]}, path)  # written in part
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left on device.*step-00000001") as raised:
        store.save(model, 2)
    assert raised.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert store.restore(model).step == 1
    for one, other in zip(values(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_old_checkpoints_and_leftovers_are_deleted(tmp_path):
    model = small()
    store = checkpoint.Checkpoints(tmp_path, IDENTITY, keep=2)
    (tmp_path / ".fresh-killed").mkdir()
    for step in (1, 2, 10, 11):
        store.save(model, step, {"best": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000011"]
    assert store.restore(model).extra == {"best": 11}
    assert store.restore(model, tmp_path / "step-00000010").step == 10


@pytest.mark.parametrize(
    "group, name, value", [("recipe", "batch_size", 8), ("data", "tokens", 10), ("config", "x", 1)]
)
def test_another_run_is_refused(tmp_path, group, name, value):
    model = small()
    checkpoint.Checkpoints(tmp_path, IDENTITY).save(model, 1)
    other = IDENTITY | {group: IDENTITY[group] | {name: value}}
    with pytest.raises(ValueError, match=f"{group}.{name} was .* and is {value}"):
        checkpoint.Checkpoints(tmp_path, other).restore(model)


def test_errors_of_restore(tmp_path):
    store = checkpoint.Checkpoints(tmp_path / "none", IDENTITY)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        store.restore(small())
    store = checkpoint.Checkpoints(tmp_path, IDENTITY)
    path = store.save(small(), 1)
    with pytest.raises(ValueError, match="variables are not those"):
        store.restore(small(ema=0.9))
    content = (path / "state.safetensors").read_bytes()
    (path / "state.safetensors").write_bytes(content[:-9])
    with pytest.raises(ValueError, match="cannot be read.*Delete"):
        store.restore(small())
    (path / "state.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        store.restore(small())


def test_nan_weights_are_not_saved(tmp_path):
    model = small()
    model.transformer.wte.weight.assign(np.full([10, 8], np.nan, np.float32))
    with pytest.raises(FloatingPointError, match="wte"):
        checkpoint.Checkpoints(tmp_path, IDENTITY).save(model, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_signal_saves_between_evaluations(whole):
    folder, reference = whole
    settings = small_trainings.settings(folder, "asked", ema=0.9, accumulate=2, steps=8)

    class SendSignal(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 3:
                signal.raise_signal(signal.SIGINT)  # what Ctrl-C sends

    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell started the tests with `&`
    stopped = small_trainings.run(settings, callbacks=[SendSignal()])
    assert stopped.report.stopped and stopped.report.steps == 3
    assert signal.getsignal(signal.SIGINT) is before
    assert_same(reference.model, small_trainings.run(settings, resume=True).model)
    assert issubclass(TrainingStopped, Exception)


def test_a_changed_setting_or_text_is_named(whole):
    folder, _ = whole
    changed = small_trainings.settings(folder, ema=0.9, accumulate=2, steps=8, learning_rate=0.02)
    with pytest.raises(ValueError, match="recipe.learning_rate was 0.01 and is 0.02"):
        small_trainings.run(changed, resume=True)
    # The refused settings do not replace those of the run, which `--resume` alone reads.
    assert read_yaml(folder / "out/train.yaml")["learning_rate"] == 0.01
    with pytest.raises(ValueError, match="--resume"):
        small_trainings.run(small_trainings.settings(folder, ema=0.9, accumulate=2, steps=8))
    text = small_trainings.write_text(folder / "other.txt")
    text.write_text(text.read_text().replace("BERT:\nWhat", "BERT:\nThat", 1))
    with pytest.raises(ValueError, match="data.checksum"):
        small_trainings.run(
            small_trainings.settings(folder, texts=str(text), ema=0.9, accumulate=2, steps=8),
            resume=True,
        )


@pytest.mark.long
def test_a_killed_process_resumes_exactly(tmp_path, figure):
    """SIGKILL at random steps, and before the first one of a resumed run."""
    kills = int(os.environ.get("ROBUSTNESS", "1"))
    options = dict(steps=60, eval_every=20, checkpoint_every=7)
    settings = small_trainings.settings(tmp_path, "whole", **options)
    code, _, err = small_trainings.run_command(settings)
    assert code == 0, err
    draw = random.Random(kills)
    killed = small_trainings.settings(tmp_path, "killed", **options)
    resume = ()
    for step in sorted(draw.randrange(9, 58) for _ in range(kills)):
        code, _, _ = small_trainings.run_command(killed, *resume, stop_at=step)
        assert code == -signal.SIGKILL
        resume = ("--resume",)
    code, _, err = small_trainings.run_command(killed, "--resume")
    figure("kills that a training survived", kills)
    assert code == 0, err
    states = [tmp_path / n / "checkpoints/step-00000060" for n in ("whole", "killed")]
    first, second = (checkpoint.load_file(path / "state.safetensors") for path in states)
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
    assert json.loads((states[0] / "state.json").read_text())["step"] == 60
