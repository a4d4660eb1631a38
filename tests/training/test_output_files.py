"""The output directory: one training run at a time, and what a full disk leaves."""

import builtins
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors import SafetensorError

from tests.support import small_trainings
from tfgpt2.training import checkpoint, output_files, recipes
from tfgpt2.training.output_files import lock_directory, report_write_errors

HOLD = """
import sys
from pathlib import Path
from tfgpt2.training.output_files import lock_directory
with lock_directory(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "locked\n"
        settings = small_trainings.settings(tmp_path, ".")
        for resume in (False, True):
            with pytest.raises(RuntimeError, match=f"Another training.*process='{process.pid}'"):
                small_trainings.run(settings, resume=resume)
        assert not (tmp_path / "train.yaml").exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
    with lock_directory(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_run_that_fails_releases_the_directory(tmp_path):
    with pytest.raises(KeyError), lock_directory(tmp_path / "new"):
        raise KeyError
    with lock_directory(tmp_path / "new"):
        with pytest.raises(RuntimeError), lock_directory(tmp_path / "new"):
            pass
    with lock_directory(tmp_path / "new"):
        pass


def test_without_locks_there_is_a_warning(tmp_path, monkeypatch):
    class NoLocks:
        LOCK_EX = LOCK_NB = 0

        def flock(self, *arguments):
            raise OSError(errno.ENOLCK, "No locks available")

    for module, reason in ((NoLocks(), "No locks available"), (None, "operating system has none")):
        monkeypatch.setattr(output_files, "fcntl", module)
        with pytest.warns(UserWarning, match=rf"cannot be locked \(.*{reason}"):
            with lock_directory(tmp_path):
                pass


@pytest.mark.parametrize(
    "error, code",
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (SafetensorError("I/O error: File too large (os error 27)"), errno.EFBIG),
        (SafetensorError('IoError(Os { code: 28, kind: StorageFull, message: "No'), errno.ENOSPC),
    ],
)
def test_errors_of_the_file_system_say_how_to_go_on(error, code):
    with pytest.raises(OSError, match="A file could not be written.*--resume") as raised:
        with report_write_errors("A file", "x"):
            raise error
    assert raised.value.errno == code and os.strerror(code) in str(raised.value)
    own = FileNotFoundError("There is no such model.")
    with pytest.raises(FileNotFoundError) as raised, report_write_errors("A file", "x"):
        raise own
    assert raised.value is own


WRITERS = {  # what fails, and the step of the last checkpoint
    "step-": ("A checkpoint", 2),
    "log.jsonl": ("The log", 2),
    "loss.png": ("The plot", 2),
    "model.safetensors": ("The model", 2),
    "vocab.json": ("The model", 2),
    "training.json": ("The report", 4),
    "train.yaml": ("The settings", None),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return small_trainings.run(small_trainings.settings(folder, **OPTIONS))


QUICK = ("model.safetensors",)
OPTIONS = dict(steps=4, eval_every=4, checkpoint_every=2, log_every=1)


@pytest.mark.long
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in WRITERS
])  # fmt: skip
def test_a_full_disk_leaves_a_run_that_resumes(tmp_path, monkeypatch, reference, name):
    """The writer of one file fails when the second checkpoint is due."""
    what, last = WRITERS[name]
    settings = small_trainings.settings(tmp_path, **OPTIONS)
    real_open, real_builtin = pathlib.Path.open, builtins.open
    real_save = checkpoint.save_file
    full = OSError(errno.ENOSPC, "No space left on device")

    def due():
        return last is None or (tmp_path / "out/checkpoints/step-00000002").exists()

    def open_file(path, mode="r", *arguments, **options):
        if name in path.name and set(mode) & set("wa+") and due():
            raise full
        return real_open(path, mode, *arguments, **options)

    def open_by_name(path, *arguments, **options):
        if isinstance(path, (str, os.PathLike)) and name in os.fspath(path) and due():
            raise full
        return real_builtin(path, *arguments, **options)

    def save_file(arrays, path):
        real_save({key: arrays[key] for key in list(arrays)[:3]}, path)  # written in part
        if name == "step-" and due():
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        real_save(arrays, path)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", open_file)
        patch.setattr(checkpoint, "save_file", save_file)
        patch.setattr(builtins, "open", open_by_name)
        with pytest.raises(OSError, match=f"{what} could not be written: No space left") as raised:
            small_trainings.run(settings)
    assert raised.value.errno == errno.ENOSPC and "--resume" in str(raised.value)
    steps = sorted(path.name for path in (tmp_path / "out/checkpoints").glob("*"))
    if last is None:
        assert steps == []
        return
    assert steps[-1] == f"step-{last:08d}"
    again = small_trainings.run(settings, resume=True)
    for mine, other in zip(again.model.weights, reference.model.weights, strict=True):
        np.testing.assert_array_equal(recipes.value_of(mine), recipes.value_of(other))
    assert json.loads((tmp_path / "out/training.json").read_text())["report"]["steps"] == 4
    steps = [line["step"] for line in small_trainings.read_log(tmp_path / "out")]
    assert steps == [0, 1, 2, 3, 4, 4]
