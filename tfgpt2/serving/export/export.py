"""`export` and `export_task`: the steps from a model to a SavedModel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.options import LONGEST_STOP, MOST_STOPS
from tfgpt2.serving.chat_files import write_chat_files
from tfgpt2.serving.export import batching_options
from tfgpt2.serving.export.batching_options import Batching
from tfgpt2.serving.export.report import ExportReport, count_programs
from tfgpt2.serving.export.self_check import ProbeInputs
from tfgpt2.serving.export.signatures import registry
from tfgpt2.serving.export.signatures.base import SignatureFn, SignatureOptions
from tfgpt2.serving.export.stored_weights import check_type, convert
from tfgpt2.serving.export.version_directory import new_version, publish
from tfgpt2.serving.export.warmup import make_requests, write_requests
from tfgpt2.text.checks import check_defaults
from tfgpt2.text.generator import TextGenerator
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

_PROBE_TEXTS = ("Once upon a time", "", "2 + 2 =")


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
    cache_dtype: str | None = None,
    warmup: bool = False,
    jit_compile: bool = True,
    check: bool = True,
) -> ExportReport:
    """Writes a generator as a string-to-string SavedModel for TensorFlow Serving.

    Args:
        generator: The text generator.
        path: The version directory, such as `saved_models/gpt2/1`; it must not exist. It appears
            complete or not at all.
        version: With a number or `"next"`, `path` is the model's directory, and the version
            directory is made in it.
        signatures: Names of `tfgpt2.serving.export.signatures.registry.SIGNATURES`; None is all.
        inputs: Settings that `generate` takes, of `REQUEST_OPTIONS` and `EXTRA_OPTIONS` of
            `tfgpt2.generation.option_table`; None is `REQUEST_OPTIONS`. The others keep their
            defaults.
        generation_config: Default settings of the signatures; None is the generator's.
            Its strategy goes into the graph: beams, contrastive search, constraints.
        prefix: A text before every prompt of `generate` and `serving_default`, whose keys and
            values are stored; None is the generator's, and `""` is none.
        on_long_prompt: See `TextGenerator`. A graph cannot raise: with `"error"`, a prompt that
            does not fit has the `finish_reason` `"prompt_too_long"`.
        prompt_buckets: See `TextGenerator`; None is the generator's.
        output_buckets: See `TextGenerator`; the last one is the most tokens a request gets.
        max_new_tokens: The most tokens a request gets; buckets beyond it are left out.
        batch_sizes: Batches are padded to the next of these numbers of rows; a batch larger than
            the last runs in parts. `"auto"` is 1, 2, 4, ... 32 with XLA, and None without; None
            runs every batch as it is.
        batching: What batches concurrent requests: `"graph"`, the SavedModel itself; `"server"`,
            TensorFlow Serving, by `batching_params.pbtxt`; None, nothing. A
            `tfgpt2.serving.Batching` sets times and queues.
        stop_limits: Most stop strings of a row and the most bytes of one; `(1, 16)` leaves one
            size of the table, and so fewer programs.
        top: Tokens that `next_token` returns.
        inspect_top: Tokens that `inspect` returns for each place.
        weights: `"float32"`; `"bfloat16"` or `"float16"`, half the bytes in the file, with XLA
            also in memory and in a decode step of a few rows, computed in float32; or `"int8"`, a
            quarter of the bytes, as `model.quantize("int8")` makes them (without XLA it computes
            in float32 with the same answers). None is the model's own.
        cache_dtype: Dtype of keys and values in `generate`, `serving_default` and the engine:
            `"float32"`, `"bfloat16"` or `"float16"`; None is the generator's.
        warmup: Write a request for each shape into `assets.extra`, so that a server compiles
            all programs before it is ready.
        jit_compile: Compile the decode loop with XLA. A server must then run with
            `--xla_cpu_compilation_enabled=true`; False runs on every server, more slowly.
        check: Reload the result in a process that imports only tensorflow and tensorflow_text
            and compare its answers with the live model's.

    Returns:
        The report of the export.

    Raises:
        FileExistsError: The version directory exists.
        RuntimeError: The self-check found a difference, or an operation that servers lack; nothing
            is left behind.
        ValueError: The model gives values that are not numbers, or an option is unknown or out of
            range.

    Example:
        >>> import tempfile
        >>> generator = TextGenerator.from_pretrained("shakespeare-tiny")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     export(generator, directory, version="next", signatures=["serving_default"],
        ...            jit_compile=False, check=False).path.name
        '1'
    """
    path = new_version(path, version)
    options = SignatureOptions(
        names=None if signatures is None else registry.check_signatures(signatures),
        inputs=None if inputs is None else tuple(inputs),
        top=top,
        inspect_top=inspect_top,
        batch_sizes=batching_options.check_sizes(batch_sizes, jit_compile=jit_compile),
        batching=batching_options.check_batching(batching),
        stop_limits=tuple(stop_limits),
    )
    live, resources = _with_stored_weights(
        generator,
        generator.generation_config if generation_config is None else generation_config,
        check_type(weights),
        jit_compile=jit_compile,
        prefix=(generator.prefix if prefix is None else prefix) or None,
        on_long_prompt=on_long_prompt,
        prompt_buckets=generator.prompt_buckets if prompt_buckets is None else prompt_buckets,
        output_buckets=generator.output_buckets if output_buckets is None else output_buckets,
        cache_dtype=generator.cache_dtype if cache_dtype is None else cache_dtype,
    )
    if max_new_tokens is not None:
        live.output_buckets = _up_to(live.output_buckets, max_new_tokens)
        live.pipeline.output_buckets = live.output_buckets
    signature_fns = registry.create(live, options)
    functions = registry.build(signature_fns)
    requests = make_requests(live, signature_fns) if warmup else []

    def add_files(directory: Path) -> None:
        spec = live.tokenizer.spec
        write_chat_files(directory, spec.chat_template, spec.roles | spec.named)
        if requests:
            write_requests(directory, path.parent.name, requests)
        if options.batching is not None and options.batching.kind == "server":
            batching_options.write_parameters(directory, options.batching, options.batch_sizes)

    report = publish(
        path,
        functions,
        resources,
        _probe_inputs({name: signature_fns[name] for name in functions}) if check else None,
        compiled=jit_compile,
        add_files=add_files,
    )
    return report._replace(
        weights=_weight_type(live.model, weights),
        programs=count_programs(signature_fns.values()),
        prompt_buckets=tuple(live.prompt_buckets),
        output_buckets=tuple(live.output_buckets),
        batch_sizes=options.batch_sizes,
        batching=None if options.batching is None else options.batching.kind,
        warmup_requests=len(requests),
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
    """Writes a model with a task head as a SavedModel whose inputs are strings.

    Its signature is `classify`, `tag` or `answer`, by the head, and `serving_default` is the same.
    Nothing in it is compiled by XLA: it runs on every server.

    Args:
        model: A `TFGPT2ForSequenceClassification`, `TFGPT2ForTokenClassification` or
            `TFGPT2ForQuestionAnswering`.
        tokenizer: The tokenizer that belongs to it.
        path: The version directory; it must not exist. It appears complete or not at all.
        version: See `export`, as for the next two.
        weights: Type in which the weights are stored.
        check: Whether to run the self-check.

    Returns:
        The report of the export.

    Raises:
        FileExistsError: The version directory exists.
        TypeError: The model has no such head.
        RuntimeError: The self-check found a difference; nothing is left behind.

    Example:
        >>> import tempfile, tfgpt2
        >>> tokenizer = tfgpt2.TFGPT2Tokenizer({"a": 0, "b": 1}, [])
        >>> config = tfgpt2.GPT2Config(vocab_size=2, n_embd=4, n_head=1, n_layer=1)
        >>> model = tfgpt2.TFGPT2ForSequenceClassification(config)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     export_task(model, tokenizer, f"{directory}/1", check=False).signatures
        ('serving_default', 'classify')
    """
    path = new_version(path, version)
    signature_fn = registry.create_task(model, tokenizer)
    signature_fn.model, stored = convert(model, check_type(weights), compiled=False)
    function = signature_fn.build(signature_fn)
    report = publish(
        path,
        {"serving_default": function, signature_fn.name: function},
        [*stored, tokenizer],
        _probe_inputs({"serving_default": signature_fn}) if check else None,
        compiled=False,
    )
    return report._replace(weights=_weight_type(signature_fn.model, weights))


def _with_stored_weights(
    generator: TextGenerator,
    config: GenerationConfig,
    weights: str | None,
    *,
    jit_compile: bool,
    **options: Any,
) -> tuple[TextGenerator, list[Any]]:
    """A generator that computes with the values that are stored, and what the SavedModel keeps."""
    check_defaults(config)
    model, resources = convert(generator.model, weights, compiled=jit_compile)
    assistant = generator.assistant
    if assistant is not None:
        assistant, more = convert(assistant, weights, compiled=jit_compile)
        resources = [*resources, *more]
    live = TextGenerator(
        model,
        generator.tokenizer,
        config,
        jit_compile=jit_compile,
        negative_prompt=generator.negative_prompt,
        assistant=assistant,
        **options,
    )
    return live, [*resources, live.tokenizer, *live.pipeline.prefix_variables]


def _probe_inputs(signature_fns: dict[str, SignatureFn]) -> ProbeInputs:
    """Inputs of the self-check for each signature that takes part."""
    found = {
        name: one.probe_inputs(tf.constant(_PROBE_TEXTS)) for name, one in signature_fns.items()
    }
    return {name: inputs for name, inputs in found.items() if inputs is not None}


def _up_to(buckets: Sequence[int], most: int) -> tuple[int, ...]:
    """The buckets below a size, and that size."""
    if type(most) is not int or not 1 <= most <= buckets[-1]:
        raise value_error(
            f"`max_new_tokens` of an export must be an integer in [1, {buckets[-1]}], the"
            " largest output bucket.",
            fix="Give a larger output bucket, or fewer tokens.",
            max_new_tokens=most,
        )
    return (*(size for size in buckets if size < most), most)


def _weight_type(model: Any, weights: str | None) -> str:
    """The type of the weights in the report."""
    if weights is not None or model.is_quantized:
        return weights or "int8"
    return " and ".join(sorted({tf.as_dtype(weight.dtype).name for weight in model.weights}))
