"""`export_litert`: from a text generator to a folder that LiteRT runs."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2 import extras
from tfgpt2.errors import value_error
from tfgpt2.generation.buckets import check_buckets
from tfgpt2.generation.results import check_finite
from tfgpt2.generation.scoring import token_logprobs
from tfgpt2.generation.stop_lists import stop_lists
from tfgpt2.litert import converter, self_check
from tfgpt2.litert.contract import MODEL, Contract, write_token_texts
from tfgpt2.litert.graph import LiteRTGraph
from tfgpt2.litert.publish import LiteRTReport, new_path, publish
from tfgpt2.litert.readme import readme
from tfgpt2.nn.quantization import require_float
from tfgpt2.text.generator import TextGenerator
from tfgpt2.validation import check_count

_PROMPT_BUCKETS = (16, 128)
_SMALL_CACHES = (128, 512)  # columns
_SCORE = 128  # tokens that one call of `score_N` reads


def export_litert(
    generator: TextGenerator,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    batch_size: int = 1,
    context: int | None = None,
    prompt_buckets: Sequence[int] | None = None,
    check: bool = True,
) -> LiteRTReport:
    """Writes a folder that LiteRT runs on phones, and `LiteRTGenerator` without TensorFlow.

    Args:
        generator: The text generator: its model, tokenizer, `generation_config` and
            `on_long_prompt`.
        path: The folder; it must not exist. It appears complete or not at all.
        quantize: `"int8"`, a quarter of the size and the fastest; `"float16"`, half of it;
            `"int4"`, a seventh, with some loss (extra `int4`); or None for float32.
        batch_size: Rows of every call; fewer prompts cost as much, more run in parts.
        context: Most tokens of prompt and continuation; None is the model's.
        prompt_buckets: Numbers of tokens that a call reads of a prompt, ascending; None is
            (16, 128). A longer prompt takes several calls.
        check: Run the file in a process that imports only NumPy and ai-edge-litert, and compare its
            outputs with the live model's.

    Returns:
        The report.

    Raises:
        FileExistsError: The folder exists.
        ImportError: An extra is missing.
        RuntimeError: The self-check found a difference; nothing is left behind.
        ValueError: An option is out of range, or the model, its tokenizer or its generation
            configuration has something that such a folder does not have.

    Example:
        >>> import tempfile
        >>> generator = TextGenerator.from_pretrained("shakespeare-tiny")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_litert(generator, f"{folder}/phone", context=32, check=False).quantize
    """
    path = new_path(path)
    if check:  # converting takes minutes
        extras.require("The self-check of a LiteRT export", "litert")
    contract = make_contract(generator, quantize, batch_size, context, prompt_buckets)
    model = generator.model
    converter.check_size(sum(int(tf.size(one)) for one in model.weights), quantize)
    graph = LiteRTGraph(model, contract.context, int8=quantize in ("int8", "int4"))
    functions = converter.make_functions(graph, contract)
    data = converter.convert(graph, functions, quantize, model.config.vocab_size)
    contract = contract.with_model_bytes(len(data))

    def add_files(folder: Path) -> None:
        contract.write(folder)
        generator.tokenizer.save_pretrained(folder)
        write_token_texts(generator.pipeline.token_texts, folder)
        generator.generation_config.save_pretrained(folder)
        (folder / "README.md").write_text(readme(contract, model.config), encoding="utf-8")

    def compare_folder(folder: Path) -> float:
        return compare(model, contract, functions, folder / MODEL)

    difference = publish(path, data, add_files, compare_folder if check else None)
    return LiteRTReport(path, tuple(functions), len(data) / 1e6, quantize, difference)


def make_contract(
    generator: TextGenerator,
    quantize: str | None,
    batch_size: int,
    context: int | None,
    prompt_buckets: Sequence[int] | None,
) -> Contract:
    """Checks that a generator can be exported, and describes the file.

    Raises:
        ValueError: See `export_litert`.
    """
    model, config = generator.model, generator.model.config
    converter.check_quantize(quantize, config)
    check_count("batch_size", batch_size, 1, optional=False)
    check_count("context", context, 2)
    if context is not None and context > config.n_positions:
        raise value_error(
            f"`context` must be at most {config.n_positions}, the positions of the model.",
            fix="Leave it out for all of them.",
            context=context,
        )
    context = context or config.n_positions
    if prompt_buckets is None:
        prompt_buckets = sorted({min(size, context) for size in _PROMPT_BUCKETS})
    _check_supported(generator)
    stops = stop_lists("stop_strings", generator.generation_config.stop_strings or [], 1)[0]
    return Contract(
        batch_size=batch_size,
        context=context,
        cache_sizes=(*(size for size in _SMALL_CACHES if size < context), context),
        prefill=check_buckets("prompt_buckets", prompt_buckets, context),
        score=min(_SCORE, context),
        vocab_size=config.vocab_size,
        layers=config.n_layer,
        heads=tuple(block.attn.heads for block in model.transformer.h),
        head_size=config.head_size,
        quantize=quantize,
        start_id=generator.pipeline.start_id,
        prefix_ids=tuple(generator.tokenizer.spec.prefix_ids),
        eos_token_ids=tuple(generator.generation_config.eos_ids),
        stop_strings=tuple(one.decode("utf-8", "replace") for one in stops),
        on_long_prompt=generator.on_long_prompt,
    )


def compare(model: Any, contract: Contract, signatures: Container[str], path: Path) -> float:
    """Compares a file with the live model; see `self_check.check`.

    Args:
        model: The live model.
        contract: The contract.
        signatures: Names of the signatures that the file has.
        path: The `.tflite` file.
    """
    runs = [run for run in self_check.probe_runs(contract) if run[0][-1][0] in signatures]
    expected = [_expected(model, *run) for run in runs]
    return self_check.check(path, [run[0] for run in runs], expected, contract.quantize)


def _check_supported(generator: TextGenerator) -> None:
    """Checks that model, tokenizer and configuration ask for nothing that LiteRT does not get.

    Raises:
        ValueError: They do.
    """
    model, config = generator.model, generator.generation_config
    require_float(model, "A LiteRT export")
    pipeline = generator.pipeline
    _, params = pipeline.compile_config(config, rows=1)
    spec = generator.tokenizer.spec
    if not spec.has_tokenizer_json:
        raise value_error(
            "LiteRT's programs read texts with a tokenizer.json, and none is exact for this"
            " tokenizer.",
            fix="Export a SavedModel, which has every tokenizer.",
            tokenizer=spec.tokenizer_class,
        )
    given = {
        "prefix": generator.prefix,
        "negative_prompt": generator.negative_prompt,
        "add_cross_attention": model.config.add_cross_attention or None,
        "adapters": sorted(model.adapters.named) if model.adapters is not None else None,
        "strategy": None if config.strategy.streams else config.strategy.name,
        "num_return_sequences": pipeline.spec.rows_per_prompt if _is_several(generator) else None,
        "top_logprobs": config.top_logprobs or None,
        "max_time": config.max_time,
        "constraint": config.constraint,
        **{name: getattr(config, name, name) for name in params.options},
    }
    given = {name: value for name, value in given.items() if value is not None}
    if given:
        raise value_error(
            "A LiteRT export has greedy decoding and sampling of one text per prompt, of a model"
            f" and a tokenizer without additions: not `{next(iter(given))}`.",
            fix="Merge adapters first; leave the other options out of the generator and its"
            " generation_config.",
            **given,
        )


def _is_several(generator: TextGenerator) -> bool:
    return generator.pipeline.spec.rows_per_prompt > 1


def _expected(
    model: Any, calls: list[self_check.Call], ids: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """What the live model computes for a run of the self-check; NaN is not compared.

    Raises:
        ValueError: The model gives values that are not numbers.
    """
    if "targets" not in calls[-1][1]:
        logits, _ = model.prefill(tf.constant(ids), tf.constant(mask), columns=ids.shape[1])
        check_finite(logits.numpy())
        return {"logits": logits.numpy()[:, None]}  # [B, 1, V]
    logprobs = token_logprobs(model, tf.constant(ids), tf.constant(mask)).numpy()  # [B, M]
    follows = (mask[:, 1:] * mask[:, :-1]) > 0
    outputs = np.full(calls[-1][1]["targets"].shape, np.nan, np.float32)  # [B, N]
    outputs[:, : ids.shape[1] - 1] = np.where(follows, logprobs[:, 1:], np.nan)
    return {"logprobs": outputs}
