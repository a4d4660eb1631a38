"""A C++ program that runs the signatures of an export, without Python."""

import functools
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

LIBRARIES = ("sentencepiece_tokenizer", "normalize_ops", "wordpiece_tokenizer")  # of TF Text
SOURCE = Path(__file__).parents[1] / "serving" / "export" / "cpp" / "run_saved_model.cc"


def installed(folder):
    """The program with the installed TensorFlow and the operations of the installed TF Text."""
    binary = compile_program(package("tensorflow"), folder / "run_saved_model")
    return functools.partial(run, binary, package("tensorflow_text") / "python" / "ops")


def package(name):
    return Path(importlib.util.find_spec(name).origin).parent


def compile_program(tensorflow, target):
    """Compiles the program against a TensorFlow's headers and libraries."""
    if shutil.which("g++") is None:
        pytest.skip("no g++: exports were not run in C++")
    command = [
        "g++", "-std=c++17", "-Wall", str(SOURCE), f"-I{tensorflow / 'include'}",
        f"-L{tensorflow}", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2",
        f"-Wl,-rpath,{tensorflow}", "-o", str(target),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return target


def run(binary, operations, directory, requests, *, xla=True):
    """Sends requests to the program; returns arrays by output, or an error's text, for each."""
    libraries = [operations / f"_{name}.so" for name in LIBRARIES]
    assert all(library.exists() for library in libraries)
    flags = [] if xla else ["--no-xla"]
    done = subprocess.run(
        [binary, directory, *flags, *libraries],
        input="".join(f"{request_line(*one)}\n" for one in requests),
        capture_output=True,
        text=True,
        timeout=600,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [one for one in done.stdout.splitlines() if one.startswith(("ok ", "error "))]
    assert len(lines) == len(requests), done.stdout
    return [parse_answer(line) for line in lines]


def request_line(signature, inputs):
    words = [signature]
    for name, value in inputs.items():
        array = value.numpy()
        words += [name, "float" if value.dtype == tf.float32 else value.dtype.name]
        words += [str(array.ndim), *map(str, array.shape)]
        words += [f"x{one.hex()}" if isinstance(one, bytes) else repr(one.item())
                  for one in np.ravel(array)]  # fmt: skip
    return " ".join(words)


def parse_answer(line):
    kind, *words = line.split(" ")
    if kind == "error":
        return line
    read = {"int32": np.int32, "float": np.float32, "string": lambda x: bytes.fromhex(x[1:])}
    found, words = {}, iter(words)
    for name in words:
        dtype, rank = next(words), int(next(words))
        shape = [int(next(words)) for _ in range(rank)]
        values = [read[dtype](next(words)) for _ in range(int(np.prod(shape)))]
        kind = object if dtype == "string" else read[dtype]
        found[name] = np.array(values, kind).reshape(shape)
    return found


def assert_same_outputs(found, expected):
    assert isinstance(found, dict), found
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        value = value.numpy()
        assert found[key].shape == value.shape, key
        if value.dtype.kind == "f":
            np.testing.assert_allclose(found[key], value, atol=1e-3, rtol=1e-3, err_msg=key)
        else:
            np.testing.assert_array_equal(found[key], value, err_msg=key)
