"""Changing the shape of a model that exists: its vocabulary, its attention heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.nn.blocks import GPT2Attention
from tfgpt2.nn.layers import Embedding


def replace_value(weight: keras.Variable, value: Any) -> None:
    """Gives a weight a value of another shape; its name, path and place stay.

    Keras has no public way to do this. A new variable would need its layer unlocked and would
    lose the path by which checkpoints know it.
    """
    value = tf.convert_to_tensor(value, weight.dtype)
    weight._initialize(value)
    weight._shape = tuple(value.shape)


def resize_embedding(table: Embedding, count: int, *, mean_resizing: bool) -> None:
    """Adds rows to a table or cuts rows off its end.

    Args:
        table: The table, `[V, D]`.
        count: Rows it shall have.
        mean_resizing: New rows are the mean of the old ones, so that they start as likely as an
            average token; else they are drawn like fresh ones.

    Source: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """
    old = tf.convert_to_tensor(table.weight.value)[:count]
    new_rows = [max(0, count - table.count), table.width]
    if mean_resizing:
        new = tf.broadcast_to(tf.reduce_mean(old, axis=0, keepdims=True), new_rows)
    else:
        new = keras.random.normal(new_rows, stddev=table.stddev, dtype=table.weight.dtype)
    replace_value(table.weight, tf.concat([old, new], axis=0))  # [count, D]
    table.count = count


def check_vocabulary_size(count: int, multiple: int | None) -> int:
    """Checks a new vocabulary size and rounds it up.

    Raises:
        ValueError: The size or the multiple is no positive integer.
    """
    for name, value in (("new_num_tokens", count), ("pad_to_multiple_of", multiple or 1)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise ValueError(
                explain(
                    f"`{name}` must be a positive integer.",
                    fix="Pass len(tokenizer), for example.",
                    **{name: value},
                )
            )
    return -(-int(count) // (multiple or 1)) * (multiple or 1)


def check_heads(
    heads: Mapping[int, Iterable[int]], layers: int, count: int
) -> dict[int, list[int]]:
    """Checks which heads of which blocks are named.

    Args:
        heads: Block to numbers of heads.
        layers: Number of blocks.
        count: Number of heads each block was made with.

    Returns:
        The same, as sorted lists.

    Raises:
        ValueError: There is no such block or head, or none would be left.
    """
    checked = {int(layer): sorted({int(head) for head in some}) for layer, some in heads.items()}
    for layer, some in checked.items():
        inside = 0 <= layer < layers and all(0 <= head < count for head in some)
        if not inside or len(some) >= count:
            raise ValueError(
                explain(
                    f"Heads are named by block in [0, {layers}) and number in [0, {count}), and"
                    " at least one stays in each block.",
                    fix="Pass for example {0: [1, 2]}.",
                    **{"block": layer, "heads": some},
                )
            )
    return checked


def prune(attention: GPT2Attention, keep: list[int]) -> None:
    """Cuts heads out of a self-attention.

    Args:
        attention: With `N` heads.
        keep: Which of the present heads stay, in order.

    Source: Michel et al. 2019, "Are Sixteen Heads Really Better than One?".
    """
    size = attention.c_proj.inputs // attention.heads  # H
    columns = (np.array(keep)[:, None] * size + np.arange(size)).reshape(-1)  # [kept * H]
    width = attention.c_proj.inputs
    fused = np.concatenate([columns + part * width for part in range(3)])  # query, key, value
    c_attn, c_proj = attention.c_attn, attention.c_proj
    replace_value(c_attn.weight, tf.gather(c_attn.weight.value, fused, axis=1))
    replace_value(c_attn.bias, tf.gather(c_attn.bias.value, fused))
    replace_value(c_proj.weight, tf.gather(c_proj.weight.value, columns))
    attention.heads, c_attn.outputs, c_proj.inputs = len(keep), len(fused), len(columns)
