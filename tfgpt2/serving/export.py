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
from tfgpt2.serving import signatures, tasks
from tfgpt2.text import TextGenerator
from tfgpt2.tokenizer.layer import TFGPT2Tokenizer

_PROGRAM = Path(__file__).with_name("probe.py")
_PROBE = ("Once upon a time", "", "2 + 2 =")
_PROBE_TOKENS = 8
Case = tuple[str, dict[str, tf.Tensor]]  # a signature's name and its inputs
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
    _check_absent(path)
    live = TextGenerator(
        generator.model,
        generator.tokenizer,
        generator.generation_config if generation_config is None else generation_config,
        on_long_prompt=on_long_prompt,
        prompt_buckets=generator.prompt_buckets if prompt_buckets is None else prompt_buckets,
        output_buckets=generator.output_buckets if output_buckets is None else output_buckets,
        jit_compile=jit_compile,
    )
    functions = signatures.build(live)
    return _publish(path, functions, live, _text_cases(functions) if check else None)


def export_task(
    model: Any, tokenizer: TFGPT2Tokenizer, path: str | os.PathLike[str], *, check: bool = True
) -> ExportReport:
    """Writes a model with a task head as a SavedModel that reads strings.

    Its signature is `classify`, `tag` or `answer`, by the head, and `serving_default` is the same.
    Nothing in it is compiled by XLA: it runs on every server.

    Args:
        model: A `TFGPT2ForSequenceClassification`, `TFGPT2ForTokenClassification` or
            `TFGPT2ForQuestionAnswering`.
        tokenizer: The tokenizer that belongs to it.
        path: The version directory; it must not exist. It appears complete or not at all.
        check: Compare with a clean process; see `export`.

    Returns:
        What was written.

    Raises:
        FileExistsError: `path` exists.
        TypeError: The model has no such head.
        RuntimeError: The check found a difference; nothing is left behind.

    Example:
        >>> import tempfile, tfgpt2
        >>> tokenizer = tfgpt2.TFGPT2Tokenizer({"a": 0, "b": 1}, [])
        >>> config = tfgpt2.GPT2Config(vocab_size=2, n_embd=4, n_head=1, n_layer=1)
        >>> model = tfgpt2.TFGPT2ForSequenceClassification(config)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     export_task(model, tokenizer, f"{directory}/1", check=False).signatures
        ('serving_default', 'classify')
    """
    _check_absent(path)
    functions = tasks.build(model, tokenizer)
    first = functions["serving_default"]
    specs = first.input_signature
    # Every input gets the same texts; a question about itself is as good a probe as any.
    inputs = {spec.name: tf.constant(_PROBE) for spec in specs}
    cases = [("serving_default", inputs)] if check else None
    owner = Parts(model, tokenizer)
    return _publish(path, functions, owner, cases)


class Parts(NamedTuple):
    """What a SavedModel is made of.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
    """

    model: Any
    tokenizer: TFGPT2Tokenizer


def _check_absent(path: str | os.PathLike[str]) -> None:
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(
            explain(
                "The version directory exists, and an export never overwrites one.",
                fix=f"Export to the next version, {path.parent / '2'} for example.",
                path=str(path),
            )
        )


def _publish(
    path: str | os.PathLike[str],
    functions: dict[str, Any],
    parts: TextGenerator | Parts,
    cases: list[Case] | None,
) -> ExportReport:
    """Writes functions beside their place, checks them, and moves them there.

    Args:
        path: The version directory.
        functions: Signatures by name.
        parts: Whose weights and vocabulary the functions use.
        cases: What to ask of the live functions and of a clean process; None checks nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same directory, so that the last step is a rename; a server ignores names that are
    # no version number.
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    # Started first: it imports TensorFlow while the functions are traced here.
    probe = _start_probe() if cases is not None else None
    try:
        _write(functions, parts, beside)
        if probe is not None:
            _check(probe, beside, functions, cases)
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
    return ExportReport(path, tuple(functions), size / 1e6, cases is not None)


def _write(functions: dict[str, Any], parts: TextGenerator | Parts, directory: Path) -> None:
    """Writes the SavedModel, with everything that has state and that the signatures use."""
    module = tf.Module()
    module.resources = [*(weight.value for weight in parts.model.weights), parts.tokenizer]
    for name, function in functions.items():
        setattr(module, name, function)  # for Python: loaded.generate(text), with defaults
    # The functions, not traces of them: only those have the defaults of their arguments.
    tf.saved_model.save(module, str(directory), signatures=functions)


def _text_cases(functions: dict[str, Any]) -> list[Case]:
    """What to ask of a generator's signatures."""
    text = tf.constant(_PROBE)
    options = {
        name: tf.constant([option.off], option.dtype) for name, option in ROW_OPTIONS.items()
    }
    options |= {"max_new_tokens": tf.constant([_PROBE_TOKENS]), "stop": tf.constant([["\n\n"]])}
    # Greedy and sampled rows, with the same shapes: one program to compile.
    sampled = {"temperature": tf.constant([0.0, 1.0, 1.0]), "seed": tf.constant([7], tf.int64)}
    return [
        ("generate", {"text": text} | options | sampled),
        ("score", {"text": text}),
        ("tokenize", {"text": text}),
        ("detokenize", {"ids": functions["tokenize"](text)["ids"]}),
    ]


def _check(
    probe: subprocess.Popen[str],
    directory: Path,
    functions: dict[str, Any],
    cases: list[Case],
) -> None:
    """Runs the SavedModel in a clean process and compares it with the live functions."""
    requests = [
        {"signature": name, "inputs": {key: _plain(value) for key, value in inputs.items()}}
        for name, inputs in cases
    ]
    _ask(probe, directory, requests)
    # The clean process compiles at the same time as this one.
    expected = [functions[name](**inputs) for name, inputs in cases]
    for (name, _), live, answer in zip(cases, expected, _answers(probe), strict=True):
        for numbers in (live[key] for key in ("token_logprobs", "scores", "score") if key in live):
            check_numbers(numbers.numpy())
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
