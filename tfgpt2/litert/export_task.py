"""`export_litert_task`: classification, tagging and question answering, from ids."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2 import extras
from tfgpt2.errors import type_error, value_error
from tfgpt2.generation.results import check_finite
from tfgpt2.litert import converter, self_check
from tfgpt2.litert.contract import MASKED, MODEL
from tfgpt2.litert.graph import LiteRTGraph, variable
from tfgpt2.litert.publish import LiteRTReport, new_path, publish
from tfgpt2.models.task_heads import (
    TFGPT2ForQuestionAnswering,
    TFGPT2ForSequenceClassification,
    TFGPT2ForTokenClassification,
)
from tfgpt2.nn.quantization import require_float
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer
from tfgpt2.validation import check_count

# Signature, the layer of the head, and the outputs, by kind of model.
_TASKS = {
    TFGPT2ForSequenceClassification: ("classify", "score", ("logits",)),
    TFGPT2ForTokenClassification: ("tag", "classifier", ("logits",)),
    TFGPT2ForQuestionAnswering: ("answer", "qa_outputs", ("start_logits", "end_logits")),
}


def export_litert_task(
    model: Any,
    tokenizer: TFGPT2Tokenizer,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    batch_size: int = 1,
    length: int | None = None,
    check: bool = True,
) -> LiteRTReport:
    """Writes a model with a task head as a folder that LiteRT runs.

    Its `model.tflite` has one signature, `classify`, `tag` or `answer`. Inputs: `tokens` and
    `attention_mask`, int32 `[B, T]`, texts padded on the right. Outputs: `logits` float32
    `[B, labels]` or `[B, T, labels]`; or `start_logits` and `end_logits` `[B, T]`.

    Args:
        model: A `TFGPT2ForSequenceClassification`, `TFGPT2ForTokenClassification` or
            `TFGPT2ForQuestionAnswering`.
        tokenizer: The tokenizer that belongs to it, whose files are written, too.
        path: The folder; it must not exist. It appears complete or not at all.
        quantize: See `export_litert`, as for the next one.
        batch_size: `B`.
        length: `T`, the most tokens of a text; None is all positions of the model.
        check: Whether to run the self-check.

    Returns:
        The report.

    Raises:
        FileExistsError: The folder exists.
        ImportError: An extra is missing.
        TypeError: The model has no such head.
        RuntimeError: The self-check found a difference; nothing is left behind.
        ValueError: An option is out of range, or the model is quantized or has adapters.

    Example:
        >>> import tempfile, tfgpt2
        >>> tokenizer = tfgpt2.TFGPT2Tokenizer({"a": 0, "b": 1}, [])
        >>> config = tfgpt2.GPT2Config(vocab_size=2, n_embd=4, n_head=1, n_layer=1, n_positions=8)
        >>> model = tfgpt2.TFGPT2ForSequenceClassification(config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_litert_task(model, tokenizer, f"{folder}/x", check=False).signatures
        ('classify',)
    """
    path, config = new_path(path), getattr(model, "config", None)
    if check:  # converting takes minutes
        extras.require("The self-check of a LiteRT export", "litert")
    task = next((task for kind, task in _TASKS.items() if isinstance(model, kind)), None)
    if task is None:
        raise type_error(
            "The model has no head for classification, tagging or question answering.",
            fix="Export a language model with TextGenerator.export_litert.",
            model=type(model).__name__,
        )
    converter.check_quantize(quantize, config)
    check_count("batch_size", batch_size, 1, optional=False)
    check_count("length", length, 2)
    length = config.n_positions if length is None else length
    if length > config.n_positions:
        raise value_error(
            f"`length` must be at most {config.n_positions}, the positions of the model.",
            fix="Leave it out for all of them.",
            length=length,
        )
    require_float(model, "A LiteRT export")
    if model.adapters is not None:
        raise value_error(
            "A LiteRT export has no adapters.",
            fix="Merge them first with lora.unload_adapters(model, merge=True).",
            adapters=sorted(model.adapters.named),
        )
    converter.check_size(sum(int(tf.size(one)) for one in model.weights), quantize)
    name, layer, outputs = task
    graph = _TaskGraph(
        model, getattr(model, layer), outputs, length, int8=quantize in ("int8", "int4")
    )
    spec = tf.TensorSpec([batch_size, length], tf.int32)
    function = tf.function(graph.run, autograph=False)
    functions = {name: function.get_concrete_function(tokens=spec, attention_mask=spec)}
    data = converter.convert(graph, functions, quantize, int(graph.weight.shape[0]))

    def compare(folder: Path) -> float:
        ids = np.random.default_rng(0).integers(0, config.vocab_size, [batch_size, length])
        mask = np.arange(length) < length - np.arange(batch_size)[:, None] % (length // 2)
        inputs = {"tokens": (ids * mask).astype(np.int32), "attention_mask": mask.astype(np.int32)}
        live = model(inputs["tokens"], attention_mask=inputs["attention_mask"])
        expected = {output: live[output].numpy() for output in outputs}
        for value in expected.values():
            check_finite(value)
            if name != "classify":
                value[~mask] = np.nan  # of padding: not compared
        return self_check.check(folder / MODEL, [[(name, inputs)]], [expected], quantize)

    def add_files(folder: Path) -> None:
        tokenizer.save_pretrained(folder)
        config.save_pretrained(folder)

    difference = publish(path, data, add_files, compare if check else None)
    return LiteRTReport(path, (name,), len(data) / 1e6, quantize, difference)


class _TaskGraph(tf.Module):
    """A model with its head.

    Args:
        model: The model.
        head: Its `Linear` layer.
        outputs: Names of the outputs.
        length: `T`.
        int8: See `LiteRTGraph`.
    """

    def __init__(
        self, model: Any, head: Any, outputs: tuple[str, ...], length: int, *, int8: bool
    ) -> None:
        super().__init__()
        self.body, self.outputs = LiteRTGraph(model, length, int8=int8), outputs
        self.pooled = isinstance(model, TFGPT2ForSequenceClassification)
        self.weight = variable(head.weight)  # [labels, D]
        self.bias = None if head.bias is None else variable(head.bias)

    def run(self, tokens: tf.Tensor, attention_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        """int32 `[B, T]` twice -> the outputs."""
        rows, length = tokens.shape
        causal = np.tri(length, dtype=np.float32)[None, None]  # [1, 1, T, T]
        seen = causal * tf.cast(attention_mask, tf.float32)[:, None, None]  # [B, 1, T, T]
        zeros = {
            f"kv_cache_{kind}_{i}": tf.zeros([rows, block.heads, length, block.size])
            for i, block in enumerate(self.body.blocks)
            for kind in "kv"
        }
        columns = tf.constant(np.arange(length, dtype=np.int32))
        hidden, _ = self.body.run(tokens, columns, (1 - seen) * MASKED, zeros)  # [B * T, D]
        if self.pooled:
            inside = attention_mask * tf.constant(np.arange(length, dtype=np.int32))
            last = tf.reduce_max(inside, axis=1) + np.arange(rows, dtype=np.int32) * length
            hidden = tf.gather(hidden, last)  # [B, D]
        logits = tf.matmul(hidden, self.weight, transpose_b=True)
        if self.bias is not None:
            logits += self.bias
        if self.pooled:
            return {"logits": logits}  # [B, labels]
        logits = tf.reshape(logits, [rows, length, -1])  # [B, T, labels]
        if len(self.outputs) == 1:
            return {self.outputs[0]: logits}
        return {name: logits[:, :, i] for i, name in enumerate(self.outputs)}  # [B, T]
