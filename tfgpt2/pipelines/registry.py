"""The pipelines there are, and `pipeline`, which makes one by the name of its task."""

from __future__ import annotations

import os
from typing import Any

from tfgpt2.errors import nearest, type_error, value_error
from tfgpt2.hub import HubOptions
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.pipelines.base import Pipeline
from tfgpt2.pipelines.feature_extraction import FeatureExtractionPipeline
from tfgpt2.pipelines.question_answering import QuestionAnsweringPipeline
from tfgpt2.pipelines.text_classification import TextClassificationPipeline
from tfgpt2.pipelines.text_generation import TextGenerationPipeline
from tfgpt2.pipelines.token_classification import TokenClassificationPipeline
from tfgpt2.tokenizers.host import GPT2Tokenizer, GPT2TokenizerFast

PIPELINES: dict[str, type[Pipeline]] = {
    pipeline.task: pipeline
    for pipeline in (
        TextGenerationPipeline,
        TextClassificationPipeline,
        TokenClassificationPipeline,
        QuestionAnsweringPipeline,
        FeatureExtractionPipeline,
    )
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def pipeline(
    task: str | None = None,
    model: TFGPT2PreTrainedModel | str | os.PathLike[str] | None = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    framework: str | None = None,
    device: Any = None,
    use_fast: bool = True,
    batch_size: int | None = None,
    model_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> Pipeline:
    """Makes a pipeline, with the arguments of transformers.

    Args:
        task: `"text-generation"`, `"text-classification"` (`"sentiment-analysis"`),
            `"token-classification"` (`"ner"`), `"question-answering"` or `"feature-extraction"`;
            None is that of the model.
        model: A model, or the name of one.
        config: A configuration in place of the model's own, or the name of one.
        tokenizer: A tokenizer on the host, or the name of one; None is the model's own.
        framework: `"tf"` or None.
        device: None or -1: TensorFlow places tensors automatically.
        use_fast: As in transformers, for a tokenizer that is named.
        batch_size: As in transformers. Changes nothing: texts run one by one.
        model_kwargs: More options of the model's `from_pretrained`.
        **options: Where to look for named models (`revision`, `token`, ...), and defaults for the
            options of calls.

    Raises:
        TypeError: There is no such option, or the model and the task do not fit.
        ValueError: There is no such task, or no model.

    Example:
        >>> generator = pipeline("text-generation", model="shakespeare-tiny")
        >>> generator("To be", max_new_tokens=1, do_sample=False)[0]["generated_text"][:5]
        'To be'
    """
    hub_options, options = HubOptions.split(options)
    where = vars(hub_options)
    if framework not in (None, "tf") or device not in (None, -1, "cpu"):
        raise value_error(
            "Pipelines run in TensorFlow, which places tensors by itself.",
            fix="Leave framework and device out; use `with tf.device(...)` to choose one.",
            framework=framework,
            device=device,
        )
    kind = _kind(task, model)
    if isinstance(model, (str, os.PathLike)):
        name, given = model, model_kwargs or {}
        model = kind.model_class.from_pretrained(name, config=config, **where, **given)
        tokenizer = name if tokenizer is None else tokenizer
    if not isinstance(model, kind.model_class):
        raise type_error(
            f"The pipeline {kind.task!r} needs a {kind.model_class.__name__}.",
            fix="Pass the name of a model, or a model of that class.",
            model=type(model).__name__,
        )
    if tokenizer is None:
        raise value_error(
            "A model that is an object does not name its tokenizer.",
            fix="Pass tokenizer=AutoTokenizer.from_pretrained(...), too.",
            tokenizer=None,
        )
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = GPT2TokenizerFast.from_pretrained(tokenizer, use_fast=use_fast, **where)
    elif not isinstance(tokenizer, GPT2Tokenizer):
        tokenizer = GPT2TokenizerFast.from_tokenizer(tokenizer)
    return kind(model, tokenizer, **options)


def _kind(task: str | None, model: Any) -> type[Pipeline]:
    """The class of a task, which may follow from the model."""
    if task is None and isinstance(model, TFGPT2PreTrainedModel):
        found = [kind for kind in PIPELINES.values() if isinstance(model, kind.model_class)]
        if found:
            return found[0]
    known = ALIASES.get(task, task)
    if known not in PIPELINES:
        raise value_error(
            f"There is no pipeline for the task {task!r}.",
            fix=nearest(str(task), [*PIPELINES, *ALIASES]),
            task=task,
        )
    if model is None:
        raise value_error(
            "A pipeline needs a model.",
            fix='Name one: pipeline("text-generation", model="openai-community/gpt2").',
            model=None,
        )
    return PIPELINES[known]
