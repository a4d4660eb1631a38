"""Version directories: what fails leaves nothing behind, and an existing one is never changed."""

import os
import shutil
import signal
import tempfile

import numpy as np
import pytest

from tfgpt2.serving import Batching, next_version
from tfgpt2.serving.export import allowed_ops, self_check, version_directory
from tfgpt2.serving.export.batching_options import PARAMETERS_FILE
from tfgpt2.serving.export.self_check import SelfCheck
from tfgpt2.serving.export.signatures import registry


@pytest.mark.parametrize("what", ["directory", "file", "dangling link"])
def test_an_existing_path_is_refused(gen, tmp_path, what):
    path = tmp_path / "1"
    {"directory": path.mkdir, "file": path.touch, "dangling link": lambda: path.symlink_to("x")}[
        what
    ]()
    with pytest.raises(
        FileExistsError, match="(?s)never overwrites.*Received: path=.*next version"
    ):
        gen.export(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def quick(report, live, monkeypatch):
    """Makes `export` copy what was exported before; returns the functions it then checks."""
    functions = {name: live[name] for name in ("score", "tokenize")}

    def write(functions, resources, directory):
        shutil.copytree(report.path, directory, dirs_exist_ok=True)

    monkeypatch.setattr(version_directory, "_write", write)
    monkeypatch.setattr(registry, "build", lambda signatures: functions)
    return functions


@pytest.mark.long
def test_a_difference_is_found_and_nothing_stays(gen, quick, tmp_path, monkeypatch):
    def other(**inputs):
        outputs = dict(right(**inputs))
        outputs["token_logprobs"] += 0.01
        return outputs

    right, scratch = quick["score"], tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    quick["score"] = other
    with pytest.raises(
        RuntimeError, match="(?s)'score' does not give the outputs of.*token_logprobs"
    ):
        gen.export(tmp_path / "1", jit_compile=False)
    assert list(tmp_path.iterdir()) == [scratch] and not list(scratch.iterdir())


def test_a_process_that_dies_is_reported(gen, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(self_check, "_PROGRAM", tmp_path / "no_such_program.py")
    with pytest.raises(RuntimeError, match="(?s)does not run in a clean process.*no_such_program"):
        gen.export(tmp_path / "1", jit_compile=False)
    assert not list(tmp_path.iterdir())


def test_scores_that_are_no_numbers_are_refused(gen, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(SelfCheck, "_receive", lambda self: [{}, {}])
    monkeypatch.setattr(self_check, "_PROGRAM", "-V")  # a process that ends at once
    right = quick["score"]
    quick["score"] = lambda **inputs: {n: v * np.nan if n == "token_logprobs" else v
                                       for n, v in right(**inputs).items()}  # fmt: skip
    with pytest.raises(ValueError, match="scores are not numbers"):
        gen.export(tmp_path / "1", jit_compile=False)
    assert not list(tmp_path.iterdir())


def test_a_kill_in_the_middle_leaves_nothing_that_a_server_loads(quick, tmp_path, monkeypatch):
    """A server takes the directories whose names are numbers."""

    def die(directory):
        assert (directory / "saved_model.pb").is_file()
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:  # only copies files and dies: TensorFlow's threads do not survive a fork
        try:
            version_directory.publish(tmp_path / "1", {}, [], None, compiled=False, add_files=die)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = [entry.name for entry in tmp_path.iterdir()]
    assert len(left) == 1 and not left[0].isdecimal() and left[0].startswith(".1.")
    assert next_version(tmp_path) == 1


def test_an_operation_that_servers_lack_is_refused(gen, quick, tmp_path, monkeypatch):
    strange = ("MatMul", "SentencepieceOp", "TFText>RoundRobinTrim", "MyOwnOp")
    monkeypatch.setattr(version_directory, "read_operations", lambda directory: strange)
    with pytest.raises(
        RuntimeError, match=r"(?s)does not know.*\['TFText>RoundRobinTrim', 'MyOwnOp'\]"
    ):
        gen.export(tmp_path / "1", jit_compile=False, check=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="XlaDynamicUpdateSlice"):
        allowed_ops.check_operations(("XlaDynamicUpdateSlice",), compiled=False)
    allowed_ops.check_operations(("XlaDynamicUpdateSlice",), compiled=True)
    # TF Text is loaded here, and is still no part of TensorFlow itself.
    with pytest.raises(RuntimeError, match="Utf8Binarize"):
        allowed_ops.check_operations(("TFText>Utf8Binarize",), compiled=True)


def test_versions_are_numbered(gen, quick, tmp_path):
    for version, expected in (("next", "1"), (7, "7"), ("next", "8")):
        (tmp_path / ".9.x").mkdir(exist_ok=True)  # what a killed export left
        report = gen.export(tmp_path, version=version, jit_compile=False, check=False)
        assert report.path == tmp_path / expected and report.path.is_dir()
    (tmp_path / "0011").mkdir()  # as servers read it
    (tmp_path / "9223372036854775808").mkdir()  # no server reads it
    assert next_version(tmp_path) == 12
    for wrong in (0, "last", 1.5, 2**63):
        with pytest.raises(ValueError, match="`version` must be a number of 1 or more"):
            gen.export(tmp_path, version=wrong)


def test_the_servers_batching_file(gen, quick, tmp_path):
    batching = Batching(
        "server", batch_timeout_micros=7, num_batch_threads=3, max_enqueued_batches=9
    )
    report = gen.export(tmp_path / "1", jit_compile=False, check=False, batch_sizes=[4, 1],
                        batching=batching)  # fmt: skip
    assert report.batching == "server" and report.batch_sizes == (1, 4)
    lines = (tmp_path / "1" / PARAMETERS_FILE).read_text().splitlines()
    assert lines == [
        "max_batch_size { value: 4 }", "batch_timeout_micros { value: 7 }",
        "max_enqueued_batches { value: 9 }", "num_batch_threads { value: 3 }",
        "allowed_batch_sizes: 1", "allowed_batch_sizes: 4",
    ]  # fmt: skip
