"""The signatures of an export: `SIGNATURES` and `TASK_SIGNATURES`, and how they are made.

`saved_models/README.md` is their contract.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tfgpt2.errors import type_error, value_error
from tfgpt2.serving.export.graph_batching import batch_rows
from tfgpt2.serving.export.signatures.base import SignatureFn, SignatureOptions, check_names
from tfgpt2.serving.export.signatures.detokenize import Detokenize
from tfgpt2.serving.export.signatures.embed import Embed
from tfgpt2.serving.export.signatures.engine import (
    EngineAdvance,
    EngineJoin,
    EngineStart,
    EngineStartIds,
    EngineTokens,
)
from tfgpt2.serving.export.signatures.from_ids import GenerateIds, InspectIds
from tfgpt2.serving.export.signatures.generate import Generate, ServingDefault
from tfgpt2.serving.export.signatures.inspect import Inspect
from tfgpt2.serving.export.signatures.next_token import NextToken
from tfgpt2.serving.export.signatures.score import Score
from tfgpt2.serving.export.signatures.task_heads import Answer, Classify, Tag, TaskSignatureFn
from tfgpt2.serving.export.signatures.tokenize import Tokenize
from tfgpt2.text.generator import TextGenerator
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

# Signatures of a text generator, in the order of a report. To add one, write a subclass of
# `SignatureFn` in a file of this folder and list it here.
SIGNATURES: dict[str, type[SignatureFn]] = {
    signature.name: signature
    for signature in (
        ServingDefault,
        Generate,
        Score,
        NextToken,
        Embed,
        Inspect,
        GenerateIds,
        InspectIds,
        Tokenize,
        Detokenize,
        EngineStart,
        EngineStartIds,
        EngineJoin,
        EngineAdvance,
        EngineTokens,
    )
}
# Signatures of models with a task head, one for each head.
TASK_SIGNATURES: dict[str, type[TaskSignatureFn]] = {
    signature.name: signature for signature in (Classify, Tag, Answer)
}


def create(
    generator: TextGenerator, options: SignatureOptions | None = None
) -> dict[str, SignatureFn]:
    """Creates the signatures of a text generator.

    Args:
        generator: The text generator; its settings are the defaults.
        options: Options of the export; None is the defaults.

    Returns:
        A `SignatureFn` for each name of the options, in the order of `SIGNATURES`; without names,
        for each that the generator can have.

    Raises:
        ValueError: A name is unknown or repeated, the generator cannot have it, there is none, or
            an input has no effect.
    """
    options = SignatureOptions() if options is None else options
    names = check_signatures(options.names)
    available = [n for n in names if SIGNATURES[n].is_available(generator, options)]
    if options.names is not None and len(available) < len(names):
        raise value_error(
            "The engine decodes greedily or samples one text for each prompt, without draft tokens"
            " and guidance.",
            fix="Leave its signatures out: such exports are served without it.",
            signatures=[name for name in names if name not in available],
        )
    names = tuple(available)
    options = dataclasses.replace(options, names=names)
    return {name: SIGNATURES[name](generator, options) for name in SIGNATURES if name in names}


def check_signatures(names: Sequence[str] | None) -> tuple[str, ...]:
    """Checks names of signatures.

    Args:
        names: Names of `SIGNATURES`; None is all.

    Raises:
        ValueError: One is unknown or repeated, or there is none.
    """
    names = tuple(SIGNATURES if names is None else names)
    check_names("signatures", names, SIGNATURES)
    if not names:
        problem = "`signatures` must hold at least one name."
        raise value_error(problem, fix="Leave it out for all.", signatures=names)
    return names


def create_task(model: Any, tokenizer: TFGPT2Tokenizer) -> TaskSignatureFn:
    """Creates the signature of a model with a task head.

    Args:
        model: A model of one of the classes that `TASK_SIGNATURES` name.
        tokenizer: The tokenizer that belongs to it.

    Raises:
        TypeError: The model has no such head.
    """
    for signature in TASK_SIGNATURES.values():
        if isinstance(model, signature.model_class):
            return signature(model, tokenizer)
    heads = ", ".join(signature.model_class.__name__ for signature in TASK_SIGNATURES.values())
    problem = f"This export is for {heads}."
    fix = "Export a language model through TextGenerator(model, tokenizer).export(path)."
    raise type_error(problem, fix=fix, model=type(model).__name__)


def build(signatures: dict[str, SignatureFn]) -> dict[str, Any]:
    """Builds the functions that are exported.

    Args:
        signatures: From `create`.

    Returns:
        A `tf.function` with a fixed input signature for each name.
    """
    programs, functions = {}, {}
    for name, signature in signatures.items():
        if signature.program not in programs:
            programs[signature.program] = batch_rows(signature)
        functions[name] = signature.build(programs[signature.program])
    return functions
