"""Writing the SavedModel: beside its place first, checked in a clean process, then moved there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.options import ROW_OPTIONS
from tfgpt2.generation.stopping import LONGEST_STOP, MOST_STOPS
from tfgpt2.generation.texts import check_numbers
from tfgpt2.serving import batching as rows
from tfgpt2.serving import signatures as contract
from tfgpt2.serving import storage, tasks
from tfgpt2.serving import warmup as warming
from tfgpt2.serving.batching import Batching
from tfgpt2.serving.operations import check_operations, read_operations
from tfgpt2.serving.report import ExportReport, count_programs
from tfgpt2.text import TextGenerator
from tfgpt2.tokenizer.layer import TFGPT2Tokenizer

_PROGRAM = Path(__file__).with_name("probe.py")
_PROBE = ("Once upon a time", "", "2 + 2 =")
_PROBE_TOKENS = 8
Case = tuple[str, dict[str, tf.Tensor]]  # a signature's name and its inputs
_FLOAT_TOLERANCE = 1e-3  # nats; the two processes may use different kernels


def export(
    generator: TextGenerator,
    path: str | os.PathLike[str],
    *,
    version: int | str | None = None,
    signatures: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    generation_config: GenerationConfig | None = None,
    on_long_prompt: str = "truncate_left",
    prompt_buckets: Sequence[int] | None = None,
    output_buckets: Sequence[int] | None = None,
    max_new_tokens: int | None = None,
    batch_sizes: Sequence[int] | str | None = "auto",
    batching: Batching | str | None = None,
    stop_limits: tuple[int, int] = (MOST_STOPS, LONGEST_STOP),
    top: int = 10,
    inspect_top: int = 5,
    weights: str | None = None,
    warmup: bool = False,
    jit_compile: bool = True,
    check: bool = True,
) -> ExportReport:
    """Writes a generator as a string-to-string SavedModel for TensorFlow Serving.

    Args:
        generator: What to export.
        path: The version directory, such as `saved_models/gpt2/1`; it must not exist. It appears
            complete or not at all.
        version: With a number or `"next"`, `path` is the model's directory, and the version
            directory is made in it.
        signatures: Which signatures, of `tfgpt2.serving.signatures.SIGNATURES`; None is all.
        inputs: Which settings `generate` takes, of `ROW_OPTIONS`; None is the usual ones
            (`tfgpt2.serving.signatures.INPUTS`). The others keep their defaults.
        generation_config: Default settings of the signatures; None is the generator's.
        on_long_prompt: See `TextGenerator`. A graph cannot raise: with `"error"`, a prompt that
            does not fit is answered by `finish_reason` `"prompt_too_long"`.
        prompt_buckets: See `TextGenerator`; None is the generator's.
        output_buckets: See `TextGenerator`; the last one is the most tokens a request gets.
        max_new_tokens: The most tokens a request gets; buckets beyond it are left out.
        batch_sizes: Batches are padded to the next of these numbers of rows; a batch larger than
            the last runs in parts. `"auto"` is 1, 2, 4, ... 32 with XLA, and None without; None
            takes every batch as it is.
        batching: Who puts requests that come at the same time into one batch: `"graph"`, the
            SavedModel itself; `"server"`, TensorFlow Serving, by `batching_params.pbtxt`; None,
            nobody. A `tfgpt2.serving.Batching` sets times and queues.
        stop_limits: Most stop strings of a row and the most bytes of one; `(1, 16)` gives one
            size of the table and so fewer programs.
        top: Tokens that `next_token` returns.
        inspect_top: Tokens that `inspect` returns for each place.
        weights: `"float32"`; `"bfloat16"` or `"float16"`, which store half the bytes and compute
            in float32; or `"int8"`, a quarter of the bytes, as `model.quantize("int8")` makes them
            (without XLA it computes in float32 with the same answers). None is the model's own.
        warmup: Write a request for each shape into `assets.extra`, so that a server compiles
            all programs before it is ready.
        jit_compile: Compile the decode loop with XLA. A server must then run with
            `--xla_cpu_compilation_enabled=true`; False runs on every server, more slowly.
        check: Reload the result in a process that imports only tensorflow and tensorflow_text
            and compare its answers with the live model's.

    Returns:
        What was written.

    Raises:
        FileExistsError: The version directory exists.
        RuntimeError: The check found a difference, or an operation that servers lack; nothing is
            left behind.
        ValueError: The weights give no numbers, or a setting is unknown or out of range.

    Example:
        >>> import tempfile
        >>> generator = TextGenerator.from_pretrained("shakespeare-tiny")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     export(generator, directory, version="next", signatures=["serving_default"],
        ...            jit_compile=False, check=False).path.name
        '1'
    """
    path = _version_path(path, version)
    _check_absent(path)
    gathering = rows.check_batching(batching)
    if isinstance(batch_sizes, str):
        batch_sizes = _auto_sizes(batch_sizes, jit_compile)
    sizes = rows.check_sizes(batch_sizes)
    options = contract.Options(
        names=contract.SIGNATURES if signatures is None else tuple(signatures),
        inputs=contract.INPUTS if inputs is None else tuple(inputs),
        top=top,
        inspect_top=inspect_top,
        batch_sizes=sizes,
        batching=gathering,
        most_rows=(sizes or rows.DEFAULT_SIZES)[-1],
        stop_limits=tuple(stop_limits),
    )
    model, kept = storage.convert(
        generator.model, storage.check_type(weights), compiled=jit_compile
    )
    live = TextGenerator(
        model,
        generator.tokenizer,
        generator.generation_config if generation_config is None else generation_config,
        on_long_prompt=on_long_prompt,
        prompt_buckets=generator.prompt_buckets if prompt_buckets is None else prompt_buckets,
        output_buckets=generator.output_buckets if output_buckets is None else output_buckets,
        jit_compile=jit_compile,
    )
    if max_new_tokens is not None:
        live.output_buckets = _up_to(live.output_buckets, max_new_tokens)
    functions = contract.build(live, options)
    records = warming.requests(live, options) if warmup else []

    def add_files(directory: Path) -> None:
        if records:
            warming.write(directory, path.parent.name, records)
        if gathering is not None and gathering.kind == "server":
            text = rows.server_parameters(gathering, sizes or rows.DEFAULT_SIZES)
            (directory / rows.PARAMETERS_FILE).write_text(text)

    report = _publish(
        path,
        functions,
        [*kept, live.tokenizer],
        _text_cases(live, functions, options) if check else None,
        compiled=jit_compile,
        add_files=add_files,
    )
    return report._replace(
        weights=_type_of(model, weights),
        programs=count_programs(live, options),
        prompt_buckets=tuple(live.prompt_buckets),
        output_buckets=tuple(live.output_buckets),
        batch_sizes=sizes,
        batching=None if gathering is None else gathering.kind,
        warmup_requests=len(records),
    )


def export_task(
    model: Any,
    tokenizer: TFGPT2Tokenizer,
    path: str | os.PathLike[str],
    *,
    version: int | str | None = None,
    weights: str | None = None,
    check: bool = True,
) -> ExportReport:
    """Writes a model with a task head as a SavedModel that reads strings.

    Its signature is `classify`, `tag` or `answer`, by the head, and `serving_default` is the same.
    Nothing in it is compiled by XLA: it runs on every server.

    Args:
        model: A `TFGPT2ForSequenceClassification`, `TFGPT2ForTokenClassification` or
            `TFGPT2ForQuestionAnswering`.
        tokenizer: The tokenizer that belongs to it.
        path: The version directory; it must not exist. It appears complete or not at all.
        version: See `export`, as for the next two.
        weights: Type in which the weights are stored.
        check: Compare with a clean process.

    Returns:
        What was written.

    Raises:
        FileExistsError: The version directory exists.
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
    path = _version_path(path, version)
    _check_absent(path)
    tasks.check_head(model)
    model, kept = storage.convert(model, storage.check_type(weights), compiled=False)
    functions = tasks.build(model, tokenizer)
    first = functions["serving_default"]
    specs = first.input_signature
    # Every input gets the same texts; a question about itself is as good a probe as any.
    inputs = {spec.name: tf.constant(_PROBE) for spec in specs}
    cases = [("serving_default", inputs)] if check else None
    report = _publish(path, functions, [*kept, tokenizer], cases, compiled=False)
    return report._replace(weights=_type_of(model, weights))


def next_version(base: str | os.PathLike[str]) -> int:
    """The number after the largest version in a model's directory; 1 where there is none.

    Args:
        base: The directory that holds the version directories; it need not exist.

    Example:
        >>> next_version("no/such/directory")
        1
    """
    base = Path(base)
    names = [entry.name for entry in base.iterdir()] if base.is_dir() else []
    return 1 + max((int(name) for name in names if name.isdecimal()), default=0)


def _version_path(path: str | os.PathLike[str], version: int | str | None) -> Path:
    """The version directory: the path itself, or a version in it."""
    if version is None:
        return Path(path)
    if version == "next":
        version = next_version(path)
    if type(version) is not int or version < 1:
        raise ValueError(
            explain(
                "`version` must be a number of 1 or more, or 'next'.",
                fix="Leave it out where the path ends in the version.",
                version=version,
            )
        )
    return Path(path) / str(version)


def _auto_sizes(batch_sizes: str, jit_compile: bool) -> tuple[int, ...] | None:
    if batch_sizes != "auto":
        raise ValueError(
            explain(
                "`batch_sizes` must be numbers of rows, 'auto' or None.",
                fix=f"For example {rows.DEFAULT_SIZES}.",
                batch_sizes=batch_sizes,
            )
        )
    return rows.DEFAULT_SIZES if jit_compile else None


def _up_to(buckets: Sequence[int], most: int) -> tuple[int, ...]:
    """The buckets below a size, and that size."""
    if type(most) is not int or not 1 <= most <= buckets[-1]:
        raise ValueError(
            explain(
                f"`max_new_tokens` of an export must be an integer in [1, {buckets[-1]}], the"
                " largest output bucket.",
                fix="Give a larger output bucket, or fewer tokens.",
                max_new_tokens=most,
            )
        )
    return (*(size for size in buckets if size < most), most)


def _type_of(model: Any, weights: str | None) -> str:
    """What the report calls the type of the weights."""
    if weights is not None or model.is_quantized:
        return weights or "int8"
    return " and ".join(sorted({tf.as_dtype(weight.dtype).name for weight in model.weights}))


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
    path: Path,
    functions: dict[str, Any],
    resources: list[Any],
    cases: list[Case] | None,
    *,
    compiled: bool,
    add_files: Callable[[Path], None] = lambda directory: None,
) -> ExportReport:
    """Writes functions beside their place, checks them, and moves them there.

    Args:
        path: The version directory.
        functions: Signatures by name.
        resources: Everything that has state and that the functions use.
        cases: What to ask of the live functions and of a clean process; None checks nothing.
        compiled: Whether operations of XLA are allowed.
        add_files: Writes further files into the directory.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same directory, so that the last step is a rename; a server ignores names that are
    # no version number.
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    # Started first: it imports TensorFlow while the functions are traced here.
    probe = _start_probe() if cases is not None else None
    try:
        _write(functions, resources, beside)
        operations = read_operations(beside)
        check_operations(operations, compiled=compiled)
        add_files(beside)
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
    return ExportReport(
        path, tuple(functions), size / 1e6, cases is not None, "float32", operations
    )


def _write(functions: dict[str, Any], resources: list[Any], directory: Path) -> None:
    """Writes the SavedModel, with everything that has state and that the signatures use."""
    module = tf.Module()
    module.resources = resources
    for name, function in functions.items():
        setattr(module, name, function)  # for Python: loaded.generate(text), with defaults
    # The functions, not traces of them: only those have the defaults of their arguments.
    tf.saved_model.save(module, str(directory), signatures=functions)


def _text_cases(
    live: TextGenerator, functions: dict[str, Any], options: contract.Options
) -> list[Case]:
    """What to ask of a generator's signatures."""
    text = tf.constant(_PROBE)
    values = live.default_options() | {
        # Greedy and sampled rows, with the same shapes: one program to compile.
        "max_new_tokens": _PROBE_TOKENS, "temperature": [0.0, 1.0, 1.0], "seed": 7,
    }  # fmt: skip
    settings = {
        name: tf.constant(np.reshape(values[name], [-1]), ROW_OPTIONS[name].dtype)
        for name in options.inputs
    }
    inputs = {
        "generate": {"text": text, **settings, "stop": tf.constant([["\n\n"]])},
        "detokenize": {"ids": live.tokenizer.tokenize(text).to_tensor(-1)},
    }
    others = [name for name in functions if name not in (*inputs, "serving_default")]
    inputs |= {name: {"text": text} for name in others}
    # Its settings may ask for many tokens, and for chance.
    if list(functions) == ["serving_default"]:
        inputs["serving_default"] = {"text": text[:0]}
    return [(name, inputs[name]) for name in functions if name in inputs]


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
        for value in live.values():
            if value.dtype.is_floating:
                check_numbers(value.numpy())
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
                error=errors.strip()[-190:],  # the end is what matters
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
