"""Changes to the shapes of an existing model: its vocabulary, its attention heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.config import GPT2Config
from tfgpt2.errors import value_error
from tfgpt2.nn.blocks import GPT2Attention, GPT2Block
from tfgpt2.nn.layers import Embedding


def replace_value(weight: keras.Variable, value: Any) -> None:
    """Replaces a weight's value by one of another shape; the variable stays the same.

    Keras has no public method for this. A new variable would need its layer unlocked and would
    lose the path from which its checkpoint key follows.
    """
    value = tf.convert_to_tensor(value, weight.dtype)
    weight._initialize(value)
    weight._shape = tuple(value.shape)


def resize_embedding(table: Embedding, count: int, *, mean_resizing: bool) -> None:
    """Adds rows at the end of a table, or removes them there.

    Args:
        table: The table, `[V, D]`.
        count: The new number of rows.
        mean_resizing: Initialise new rows with the mean of the old ones, which makes the new
            tokens as likely as an average token; else randomly.

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
    """Checks a new vocabulary size and rounds it up to a multiple.

    Raises:
        ValueError: The size or the multiple is not a positive integer.
    """
    for name, value in (("new_num_tokens", count), ("pad_to_multiple_of", multiple or 1)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise value_error(
                f"`{name}` must be a positive integer.",
                fix="Pass len(tokenizer), for example.",
                **{name: value},
            )
    return -(-int(count) // (multiple or 1)) * (multiple or 1)


def check_table(shape: Sequence[int], width: int) -> None:
    """Checks the shape of a new token table.

    Raises:
        ValueError: It is not `[V, width]`.
    """
    if len(shape) != 2 or shape[1] != width:
        raise value_error(
            f"The token table must have shape [V, {width}].",
            fix="Give one row of the model's width for each token.",
            shape=list(shape),
        )


def prune_heads(
    blocks: Sequence[GPT2Block], config: GPT2Config, heads_to_prune: Mapping[int, Iterable[int]]
) -> None:
    """Removes attention heads and records them in `config.pruned_heads`.

    Args:
        blocks: The blocks of the model.
        config: Its configuration.
        heads_to_prune: Block to the numbers of heads, as the unpruned model counts them.

    Raises:
        ValueError: There is no such block or head, or a block would have none left.
    """
    pruned = {int(block): set(heads) for block, heads in config.pruned_heads.items()}
    wanted = {int(block): set(map(int, heads)) for block, heads in heads_to_prune.items()}
    wanted = {block: pruned.get(block, set()) | heads for block, heads in wanted.items()}
    for block, heads in wanted.items():
        _check_heads(block, heads, config.n_layer, config.n_head)
    for block, heads in wanted.items():
        present = config.kept_heads(block)
        kept = [place for place, head in enumerate(present) if head not in heads]
        _keep_heads(blocks[block].attn, kept)
        pruned[block] = heads
    config.pruned_heads = {block: sorted(heads) for block, heads in sorted(pruned.items())}


def _check_heads(block: int, heads: set[int], blocks: int, count: int) -> None:
    """Checks that `heads` of a block with `count` heads exist and are not all of them."""
    in_range = 0 <= block < blocks and all(0 <= head < count for head in heads)
    if not in_range or len(heads) >= count:
        raise value_error(
            f"Heads are given by block in [0, {blocks}) and number in [0, {count}), and"
            " at least one remains in each block.",
            fix="Pass for example {0: [1, 2]}.",
            **{"block": block, "heads": sorted(heads)},
        )


def _keep_heads(attention: GPT2Attention, kept: list[int]) -> None:
    """Removes all heads of a self-attention but those at the places `kept`.

    Source: Michel et al. 2019, "Are Sixteen Heads Really Better than One?".
    """
    size = attention.c_proj.inputs // attention.heads  # H
    columns = (np.array(kept)[:, None] * size + np.arange(size)).reshape(-1)  # [kept * H]
    width = attention.c_proj.inputs
    fused = np.concatenate([columns + part * width for part in range(3)])  # query, key, value
    c_attn, c_proj = attention.c_attn, attention.c_proj
    replace_value(c_attn.weight, tf.gather(c_attn.weight.value, fused, axis=1))
    replace_value(c_attn.bias, tf.gather(c_attn.bias.value, fused))
    replace_value(c_proj.weight, tf.gather(c_proj.weight.value, columns))
    attention.heads, c_attn.outputs, c_proj.inputs = len(kept), len(fused), len(columns)
