"""`export_litertlm`: from a text generator to a file that LiteRT-LM runs."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.litert import converter, litert_lm
from tfgpt2.litert.contract import MODEL
from tfgpt2.litert.export import compare, make_contract
from tfgpt2.litert.graph import LiteRTGraph
from tfgpt2.litert.publish import LiteRTReport, new_path
from tfgpt2.text.generator import TextGenerator

_SUFFIX = ".litertlm"  # by which LiteRT-LM knows what a file is


def export_litertlm(
    generator: TextGenerator,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    context: int | None = None,
    prompt_buckets: Sequence[int] | None = None,
    check: bool = True,
) -> LiteRTReport:
    """Writes a `.litertlm` file: model, tokenizer and defaults for LiteRT-LM and its apps.

    Args:
        generator: The text generator: its model, tokenizer with chat template, and
            `generation_config`, of which the file gets end tokens, `temperature`, `top_k` and
            `top_p`.
        path: The file; it must not exist. It appears complete or not at all.
        quantize: See `tfgpt2.litert.export.export_litert`, as for the next three.
        context: See there.
        prompt_buckets: See there.
        check: See there.

    Returns:
        The report.

    Raises:
        FileExistsError: The path exists.
        ImportError: The extra `litertlm` is not installed.
        RuntimeError: The self-check found a difference; nothing is left behind.
        ValueError: An option is out of range, the name of the file is another, or the generator has
            something that such a file does not have.

    Example:
        >>> generator = TextGenerator.from_pretrained("shakespeare-tiny")
        >>> export_litertlm(generator, "bard.tflite")
        Traceback (most recent call last):
        ...
        ValueError: The file's name must end in .litertlm. Received: path='bard.tflite'. ...
    """
    path = new_path(path)
    if path.suffix != _SUFFIX:
        raise value_error(
            f"The file's name must end in {_SUFFIX}.",
            fix="LiteRT-LM knows its files by that.",
            path=str(path),
        )
    litert_lm.import_builder()  # before the minutes that the rest takes
    model, config = generator.model, generator.generation_config.to_dict()
    contract = make_contract(generator, quantize, 1, context, prompt_buckets)
    contract = dataclasses.replace(contract, cache_sizes=(contract.context,))  # it knows no others
    litert_lm.check_contract(contract, config)
    litert_lm.check_texts(generator.tokenizer.spec.backend(), generator.pipeline.token_texts)
    converter.check_size(sum(int(tf.size(one)) for one in model.weights), quantize)
    graph = LiteRTGraph(model, contract.context, int8=quantize in ("int8", "int4"))
    functions = converter.make_functions(graph, contract, score=False)
    data = converter.convert(graph, functions, quantize, model.config.vocab_size)
    spec, difference = generator.tokenizer.spec, None
    template = spec.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    message = litert_lm.metadata(contract, config, template, spec.roles | spec.named)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
        beside = Path(name)
        (beside / MODEL).write_bytes(data)
        generator.tokenizer.save_pretrained(beside)
        if check:
            difference = compare(model, contract, functions, beside / MODEL)
        litert_lm.pack(beside, message, beside / path.name, quantize=quantize)
        (beside / path.name).rename(path)
    size = path.stat().st_size / 1e6
    return LiteRTReport(path, tuple(functions), size, quantize, difference)
