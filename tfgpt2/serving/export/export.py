"""What goes into a SavedModel: models, settings, signatures, and files beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.stopping import LONGEST_STOP, MOST_STOPS
from tfgpt2.serving.export import batching as rows
from tfgpt2.serving.export import storage
from tfgpt2.serving.export import warmup as warming
from tfgpt2.serving.export.batching import Batching
from tfgpt2.serving.export.publish import Case, check_absent, publish
from tfgpt2.serving.export.report import ExportReport, count_programs
from tfgpt2.serving.export.signatures import registry as contract
from tfgpt2.serving.export.signatures import task_heads as tasks
from tfgpt2.text.checks import check_defaults
from tfgpt2.text.generator import TextGenerator
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

_PROBE = ("Once upon a time", "", "2 + 2 =")
_PROBE_TOKENS = 8


def export(
    generator: TextGenerator,
    path: str | os.PathLike[str],
    *,
    version: int | str | None = None,
    signatures: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    generation_config: GenerationConfig | None = None,
    prefix: str | None = None,
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
        signatures: Which signatures, of `tfgpt2.serving.export.signatures.registry.SIGNATURES`;
            None is all.
        inputs: Which settings `generate` takes, of `ROW_OPTIONS` and `EXTRA_OPTIONS` of
            `tfgpt2.generation.options`; None is the usual ones
            (`tfgpt2.serving.export.signatures.registry.INPUTS`). The others keep their defaults.
        generation_config: Default settings of the signatures; None is the generator's.
            Its strategy goes into the graph: beams, contrastive search, constraints.
        prefix: A text before every prompt of `generate` and `serving_default`, whose keys and
            values are stored; None is the generator's, and `""` is none.
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
    check_absent(path)
    gathering = rows.check_batching(batching)
    if isinstance(batch_sizes, str):
        batch_sizes = _auto_sizes(batch_sizes, jit_compile)
    sizes = rows.check_sizes(batch_sizes)
    config = generator.generation_config if generation_config is None else generation_config
    check_defaults(config)
    options = contract.Options(
        names=contract.SIGNATURES if signatures is None else tuple(signatures),
        inputs=contract.usual_inputs(config) if inputs is None else tuple(inputs),
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
    assistant, kept_too = generator.assistant, []
    if assistant is not None:
        assistant, kept_too = storage.convert(assistant, weights, compiled=jit_compile)
    live = TextGenerator(
        model,
        generator.tokenizer,
        config,
        on_long_prompt=on_long_prompt,
        prompt_buckets=generator.prompt_buckets if prompt_buckets is None else prompt_buckets,
        output_buckets=generator.output_buckets if output_buckets is None else output_buckets,
        jit_compile=jit_compile,
        prefix=(generator.prefix if prefix is None else prefix) or None,
        negative_prompt=generator.negative_prompt,
        assistant=assistant,
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

    report = publish(
        path,
        functions,
        [*kept, *kept_too, live.tokenizer, *live.prefix_variables],
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
    check_absent(path)
    tasks.check_head(model)
    model, kept = storage.convert(model, storage.check_type(weights), compiled=False)
    functions = tasks.build(model, tokenizer)
    first = functions["serving_default"]
    specs = first.input_signature
    # Every input gets the same texts; a question about itself is as good a probe as any.
    inputs = {spec.name: tf.constant(_PROBE) for spec in specs}
    cases = [("serving_default", inputs)] if check else None
    report = publish(path, functions, [*kept, tokenizer], cases, compiled=False)
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


def _text_cases(
    live: TextGenerator, functions: dict[str, Any], options: contract.Options
) -> list[Case]:
    """What to ask of a generator's signatures."""
    text = tf.constant(_PROBE)
    values = contract.default_settings(live, options) | {
        # Greedy and sampled rows, with the same shapes: one program to compile.
        "max_new_tokens": _PROBE_TOKENS, "temperature": [0.0, 1.0, 1.0], "seed": 7,
    }  # fmt: skip
    settings = {
        name: tf.constant(np.reshape(values[name], [-1]), contract.SETTINGS[name].dtype)
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
