"""Exports run by a C++ program, without Python: with XLA and without, by two TensorFlows."""

import functools
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support import cpp_program, toy_text
from tests.support.cpp_program import assert_same_outputs
from tfgpt2 import GenerationConfig
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.serving.export.signatures.base import SignatureOptions
from tfgpt2.serving.export.signatures.registry import SIGNATURES, build, create

OLD = ("tensorflow_cpu==2.18.1", "tensorflow-text==2.18.1")
SETTINGS = {
    "max_new_tokens": [12, 3, 9], "min_new_tokens": [0], "temperature": [0.0, 1.0, 0.7],
    "top_k": [0, 0, 5], "top_p": [1.0, 0.9, 1.0], "min_p": [0.0], "repetition_penalty": [1.1],
    "seed": [1, 2, 3],
}  # fmt: skip
TEXT = ["To be, or not", "", "é😀 naïve\n"]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return cpp_program.installed(tmp_path_factory.mktemp("cpp"))


def settings(**values):
    tensors = {
        name: tf.constant(value, REQUEST_OPTIONS[name].dtype) for name, value in values.items()
    }
    return {"text": tf.constant(TEXT), **tensors, "stop": tf.constant([["zz", "q"], ["e", ""]] +
                                                                      [["", ""]])}  # fmt: skip


def requests_of(names):
    text, ids = {"text": tf.constant(TEXT)}, {"ids": tf.constant(["97 98", "", "256 5 99999"])}
    found = [
        (name, ids if name.endswith("_ids") else text)
        for name in names
        if name not in ("generate", "generate_ids", "detokenize")
    ]
    if "generate_ids" in names:
        found.append(("generate_ids", {n: x for n, x in settings(**SETTINGS).items()
                                       if n != "text"} | ids))  # fmt: skip
    if "generate" in names:
        found += [
            ("generate", settings(**SETTINGS)),
            # Inputs that are left out come from SignatureDef.defaults.
            ("generate", text),
            ("generate", text | {"max_new_tokens": tf.constant([2])}),
        ]
    if "detokenize" in names:
        found.append(("detokenize", {"ids": tf.constant([[97, 98, 200], [5, -1, 3]])}))
    return found


def live_answers(generator, names, requests):
    functions = build(create(generator, SignatureOptions(names=names)))
    return [functions[name](**inputs) for name, inputs in requests]


TOY = {"generation_config": GenerationConfig(max_new_tokens=5, stop_strings=["zz", "é"])}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Exports of a small random model, with XLA and without, and the answers of the live model."""
    base = tmp_path_factory.mktemp("toy")
    plain = toy_text.generator(jit_compile=False, **TOY)
    names = ("generate", "tokenize", "detokenize")
    plain.export(base / "plain", jit_compile=False, check=False, signatures=names)
    plain.export(base / "xla", check=False, signatures=["generate"], weights="bfloat16",
                 batch_sizes=[4])  # fmt: skip
    requests = requests_of(names)
    return base, requests, live_answers(plain, names, requests)


@pytest.mark.long
def test_without_xla_operations_every_server_runs_it(program, toy):
    base, requests, expected = toy
    for found, right in zip(program(base / "plain", requests, xla=False), expected, strict=True):
        assert_same_outputs(found, right)


@pytest.mark.long
def test_a_compiled_export_fails_without_xla(program, toy):
    base, requests, _ = toy
    requests = [one for one in requests if one[0] == "generate"][:2]
    for found in program(base / "xla", requests, xla=False):
        assert isinstance(found, str) and "XLA compilation disabled" in found


@pytest.mark.long
@pytest.mark.parametrize("which", ["program", "old_program"])
def test_a_compiled_export_with_half_size_weights(which, toy, request):
    """The products widen the weights, behind XLA's barriers; with TensorFlow 2.18, too."""
    program, (base, requests, _) = request.getfixturevalue(which), toy
    requests = [one for one in requests if one[0] == "generate"]
    rounded = toy_text.generator(jit_compile=False, **TOY)
    for weight in rounded.model.weights:
        weight.assign(tf.cast(tf.cast(weight.value, tf.bfloat16), tf.float32))
    expected = live_answers(rounded, ("generate",), requests)
    for found, right in zip(program(base / "xla", requests), expected, strict=True):
        assert_same_outputs(found, right)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """Exports of the bundled model, every signature, and the answers of the live model."""
    base = tmp_path_factory.mktemp("bundled")
    generator = tfgpt2.TextGenerator.from_pretrained("shakespeare-tiny")
    generator.export(base / "xla", check=False)
    generator.export(base / "plain", check=False, jit_compile=False)
    names = tuple(name for name in SIGNATURES if not name.startswith("engine_"))  # no states
    requests = requests_of(names)
    # Settings at export: sampled with fresh seeds, so those rows are compared by themselves.
    requests = [one for one in requests if one[0] != "serving_default" and (
        one[0] != "generate" or "seed" in one[1])]  # fmt: skip
    return base, requests, live_answers(generator, names, requests)


@pytest.mark.long
@pytest.mark.parametrize(("name", "xla"), [("xla", True), ("plain", True), ("plain", False)])
def test_the_bundled_model(program, bundled, name, xla):
    base, requests, expected = bundled
    for found, right in zip(program(base / name, requests, xla=xla), expected, strict=True):
        assert_same_outputs(found, right)
    default = program(base / name, [("serving_default", {"text": tf.constant(TEXT)})], xla=xla)[0]
    assert default["num_tokens"].max() > 3 and np.isfinite(default["token_logprobs"]).all()
    for raw in default["text"]:
        raw.decode()


@pytest.fixture(scope="module")
def old_program(tmp_path_factory):
    """The program with TensorFlow and TF Text 2.18, whose wheels are kept in the user's cache."""
    if sys.version_info[:2] > (3, 12):
        pytest.skip("TensorFlow 2.18 has no wheel for this Python")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tfgpt2" / "tf-2.18"
    cache.mkdir(parents=True, exist_ok=True)
    for wanted in OLD:
        name = wanted.split("==")[0].replace("-", "_")
        if not (cache / name.removesuffix("_cpu")).is_dir():
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", cache]
            done = subprocess.run([*command, wanted], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"{wanted} could not be fetched: {done.stderr[-200:]}")
            (wheel,) = cache.glob(f"{name}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(cache)
            wheel.unlink()
    binary = cpp_program.compile_program(
        cache / "tensorflow", tmp_path_factory.mktemp("old") / "run_saved_model"
    )
    return functools.partial(cpp_program.run, binary, cache / "tensorflow_text" / "python" / "ops")


@pytest.mark.long
def test_tensorflow_2_18_without_xla(old_program, toy):
    base, requests, expected = toy
    for found, right in zip(
        old_program(base / "plain", requests, xla=False), expected, strict=True
    ):
        assert_same_outputs(found, right)
    requests = [one for one in requests if one[0] == "generate"][:2]
    for found in old_program(base / "xla", requests, xla=False):
        assert isinstance(found, str) and "XLA compilation disabled" in found


@pytest.mark.long
@pytest.mark.parametrize(("name", "xla"), [("xla", True), ("plain", False)])
def test_tensorflow_2_18(old_program, bundled, name, xla):
    base, requests, expected = bundled
    for found, right in zip(old_program(base / name, requests, xla=xla), expected, strict=True):
        assert_same_outputs(found, right)
