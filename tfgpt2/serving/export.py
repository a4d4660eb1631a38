"""Writing the SavedModel: beside its place first, checked in a clean process, then moved there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.options import ROW_OPTIONS
from tfgpt2.generation.texts import check_numbers
from tfgpt2.serving import signatures
from tfgpt2.text import TextGenerator

_PROGRAM = Path(__file__).with_name("probe.py")
_PROBE = ("Once upon a time", "", "2 + 2 =")
_PROBE_TOKENS = 8
_FLOAT_TOLERANCE = 1e-3  # nats; the two processes may use different kernels


class ExportReport(NamedTuple):
    """What an export wrote.

    Attributes:
        path: The version directory.
        signatures: Names of the signatures.
        megabytes: Size of the directory.
        checked: Whether a clean process gave the same answers as the live model.
    """

    path: Path
    signatures: tuple[str, ...]
    megabytes: float
    checked: bool


def export(
    generator: TextGenerator,
    path: str | os.PathLike[str],
    *,
    generation_config: GenerationConfig | None = None,
    on_long_prompt: str = "truncate_left",
    prompt_buckets: Sequence[int] | None = None,
    output_buckets: Sequence[int] | None = None,
    jit_compile: bool = True,
    check: bool = True,
) -> ExportReport:
    """Writes a generator as a string-to-string SavedModel for TensorFlow Serving.

    Args:
        generator: What to export.
        path: The version directory, such as `saved_models/gpt2/1`; it must not exist. It appears
            complete or not at all.
        generation_config: Default settings of the signatures; None is the generator's.
        on_long_prompt: See `TextGenerator`. A graph cannot raise: with `"error"`, a prompt that
            does not fit is answered by `finish_reason` `"prompt_too_long"`.
        prompt_buckets: See `TextGenerator`; None is the generator's.
        output_buckets: See `TextGenerator`; the last one is the most tokens a request gets.
        jit_compile: Compile the decode loop with XLA. A server must then run with
            `--xla_cpu_compilation_enabled=true`; False runs on every server, more slowly.
        check: Reload the result in a process that imports only tensorflow and tensorflow_text
            and compare its answers with the live model's.

    Returns:
        What was written.

    Raises:
        FileExistsError: `path` exists.
        RuntimeError: The check found a difference; nothing is left behind.
        ValueError: The weights give no numbers, or a setting is out of range.

    Example:
        >>> import tempfile
        >>> generator = TextGenerator.from_pretrained("shakespeare-tiny")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     export(generator, f"{directory}/1", jit_compile=False, check=False).signatures[0]
        'serving_default'
    """
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(
            explain(
                "The version directory exists, and an export never overwrites one.",
                fix=f"Export to the next version, {path.parent / '2'} for example.",
                path=str(path),
            )
        )
    live = TextGenerator(
        generator.model,
        generator.tokenizer,
        generator.generation_config if generation_config is None else generation_config,
        on_long_prompt=on_long_prompt,
        prompt_buckets=generator.prompt_buckets if prompt_buckets is None else prompt_buckets,
        output_buckets=generator.output_buckets if output_buckets is None else output_buckets,
        jit_compile=jit_compile,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same directory, so that the last step is a rename; a server ignores names that are
    # no version number.
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    # Started first: it imports TensorFlow while the functions are traced here.
    probe = _start_probe() if check else None
    try:
        functions = _write(live, beside)
        if probe is not None:
            _check(probe, beside, functions)
        beside.chmod(0o755)  # mkdtemp's 0700 would keep a server's user out
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    finally:
        if probe is not None:
            probe.kill()
            probe.communicate()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return ExportReport(path, tuple(functions), size / 1e6, check)


def _write(live: TextGenerator, directory: Path) -> dict[str, Any]:
    """Writes the SavedModel and returns its functions by signature name."""
    functions = signatures.build(live)
    module = tf.Module()
    module.resources = _resources(live)
    for name, function in functions.items():
        setattr(module, name, function)  # for Python: loaded.generate(text), with defaults
    # The functions, not traces of them: only those have the defaults of their arguments.
    tf.saved_model.save(module, str(directory), signatures=functions)
    return functions


def _resources(live: TextGenerator) -> list[Any]:
    """Everything with state that the signatures use, for the SavedModel to keep."""
    return [*(weight.value for weight in live.model.weights), live.tokenizer]


def _check(probe: subprocess.Popen[str], directory: Path, functions: dict[str, Any]) -> None:
    """Runs the SavedModel in a clean process and compares it with the live functions."""
    text = tf.constant(_PROBE)
    options = {
        name: tf.constant([option.off], option.dtype) for name, option in ROW_OPTIONS.items()
    }
    options |= {"max_new_tokens": tf.constant([_PROBE_TOKENS]), "stop": tf.constant([["\n\n"]])}
    # Greedy and sampled rows, with the same shapes: one program to compile.
    sampled = {"temperature": tf.constant([0.0, 1.0, 1.0]), "seed": tf.constant([7], tf.int64)}
    cases = [
        ("generate", {"text": text} | options | sampled),
        ("score", {"text": text}),
        ("tokenize", {"text": text}),
        ("detokenize", {"ids": functions["tokenize"](text)["ids"]}),
    ]
    requests = [
        {"signature": name, "inputs": {key: _plain(value) for key, value in inputs.items()}}
        for name, inputs in cases
    ]
    _ask(probe, directory, requests)
    # The clean process compiles at the same time as this one.
    expected = [functions[name](**inputs) for name, inputs in cases]
    for (name, _), live, answer in zip(cases, expected, _answers(probe), strict=True):
        if "token_logprobs" in live:
            check_numbers(live["token_logprobs"].numpy())
        for key, value in live.items():
            if not _same(_plain(value), answer.get(key)):
                raise RuntimeError(
                    explain(
                        f"The exported signature {name!r} does not answer like the live model;"
                        " nothing was written.",
                        fix="Please report this with the versions of tensorflow and tfgpt2.",
                        output=key,
                        live=_plain(value),
                        exported=answer.get(key),
                    )
                )


def _start_probe() -> subprocess.Popen[str]:
    """Starts a process that knows nothing of this package and waits for requests."""
    safe = ["-P"] if sys.version_info >= (3, 11) else []  # not even the folder of the program
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *safe, str(_PROGRAM)],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def _ask(probe: subprocess.Popen[str], directory: Path, requests: list[dict[str, Any]]) -> None:
    """Hands the process its requests."""
    with contextlib.suppress(BrokenPipeError):  # it died; `_answers` says why
        probe.stdin.write(json.dumps({"directory": str(directory), "requests": requests}))
        probe.stdin.close()
    probe.stdin = None  # so that `communicate` does not use it again


def _answers(probe: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Waits for the answers."""
    output, errors = probe.communicate()
    if probe.returncode:
        raise RuntimeError(
            explain(
                "The exported SavedModel does not run in a clean process; nothing was written.",
                fix="Please report this with the versions of tensorflow and tfgpt2.",
                error=errors[-2000:],
            )
        )
    return json.loads(output.splitlines()[-1])


def _plain(value: tf.Tensor) -> Any:
    """A tensor as lists for JSON; bytes become Latin-1 text."""
    array = value.numpy()
    if array.dtype == object:
        return np.vectorize(lambda raw: raw.decode("latin-1"), otypes=[object])(array).tolist()
    return array.tolist()


def _same(expected: Any, found: Any) -> bool:
    expected, found = np.array(expected), np.array(found)
    if expected.shape != found.shape:
        return False
    if expected.dtype.kind == "f":
        return bool(np.allclose(expected, found, rtol=_FLOAT_TOLERANCE, atol=_FLOAT_TOLERANCE))
    return bool(np.all(expected == found))
