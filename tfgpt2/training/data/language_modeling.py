"""From texts to batches: `tf.data` pipelines with the tokenizer inside.

Every function takes a source (see `tfgpt2.training.data.sources.rows`) and a `TFGPT2Tokenizer`, and
returns a `tf.data.Dataset` of dicts that `model.fit` takes as they are. The last arguments of each
are those of `tfgpt2.training.data.schedule.Order`: `shuffle`, `seed`, `epochs`, `skip_batches`,
`drop_remainder`, `num_shards`, `shard_index`. A batch is a function of these and its number, so
`skip_batches=n` continues exactly after batch `n`, at no cost, in any epoch.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import tensorflow as tf

from tfgpt2.tokenizers.text_inputs import check_count, check_names
from tfgpt2.training.data import columns as table
from tfgpt2.training.data import corpus
from tfgpt2.training.data import schedule as order
from tfgpt2.training.data.corpus import Corpus

_READING = ("column", "separator", "add_eos", "cache")
_ORDER = tuple(field.name for field in dataclasses.fields(order.Order))


def lm_dataset(
    source: Any,
    tokenizer: Any,
    block_size: int,
    batch_size: int,
    *,
    document_mask: bool = False,
    keep_tail: bool = False,
    column: str = "text",
    separator: str | None = None,
    add_eos: bool = True,
    cache: str | os.PathLike[str] | None = None,
    **options: Any,
) -> tf.data.Dataset:
    """Language-modeling data: documents joined, and cut into full blocks.

    Args:
        source: Texts, or a `Corpus` that `tokenize_corpus` made.
        tokenizer: A `TFGPT2Tokenizer`; None with a `Corpus`.
        block_size: Tokens in a block, 2 or more.
        batch_size: Blocks in a batch.
        document_mask: Keep documents apart: tokens see only their own document, positions begin
            anew with each, and its first token is not scored. Else a block is read as one text.
        keep_tail: Keep the tokens after the last full block, as a block with padding at its end.
        column: See `tokenize_corpus`, as for the next three.
        separator: What ends a document in a text file.
        add_eos: End each document with the end token.
        cache: A folder that keeps the tokens.
        **options: See `tfgpt2.training.data.schedule.Order`.

    Returns:
        Batches of `input_ids` and `labels`, int32 `[B, T]`; with `document_mask` also
        `attention_mask`, bool `[B, 1, T, T]`, and `position_ids`, int32 `[B, T]`.

    Raises:
        ValueError: There is too little text, or a value does not fit.
        TypeError: There is no such option, or the source is none.
        FileNotFoundError: No file has such a name.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> data = lm_dataset(["To be, or not to be"] * 9, tokenizer, block_size=8, batch_size=2)
        >>> data.element_spec["input_ids"].shape
        TensorShape([None, 8])
    """
    check_count("block_size", block_size, least=2)
    check_names(options, (*_ORDER, *_READING, "document_mask", "keep_tail"))
    deal = order.Order(batch_size=batch_size, **options)
    store = source
    if not isinstance(source, Corpus):
        store = corpus.tokenize(
            source, tokenizer, column=column, separator=separator, add_eos=add_eos, cache=cache
        )
    blocks = store.blocks(block_size, keep_tail=keep_tail)
    return order.dataset(blocks, store.fetch(block_size, document_mask=document_mask), deal)


def completion_dataset(
    source: Any,
    tokenizer: Any,
    max_length: int,
    batch_size: int,
    *,
    prompt: str = "prompt",
    completion: str = "completion",
    add_eos: bool = True,
    pad_to_multiple_of: int | None = None,
    **options: Any,
) -> tf.data.Dataset:
    """Prompts and what should follow: only the completion is scored.

    Both are tokenized by themselves, so a completion begins with the space that it needs. What is
    too long loses the beginning of its prompt first, then the end of its completion.

    Args:
        source: Rows with the two columns.
        tokenizer: A `TFGPT2Tokenizer`.
        max_length: Most tokens of a row, 2 or more.
        batch_size: Rows in a batch.
        prompt: Name of the column of prompts.
        completion: Name of the column of completions.
        add_eos: End each completion with the end token.
        pad_to_multiple_of: Pad to the longest row of the batch, rounded up to this, and not to
            `max_length`; each width is a shape of its own to compile.
        **options: See `tfgpt2.training.data.schedule.Order`.

    Returns:
        Batches of `input_ids`, `attention_mask` and `labels`, int32 `[B, T]`; labels of prompts
        and padding are -100.

    Raises:
        ValueError: A row has no such column or an empty completion, or a value does not fit.
        TypeError: A column holds no texts, or there is no such option.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> rows = [{"prompt": "To be,", "completion": " or not"}]
        >>> batch = next(iter(completion_dataset(rows, tokenizer, 12, 1)))
        >>> int(batch["labels"][0, 0]), batch["labels"].shape
        (-100, TensorShape([1, 12]))
    """
    check_names(options, _ORDER)
    deal = order.Order(batch_size=batch_size, **options)
    width = table.Width(max_length, pad_to_multiple_of, tokenizer.pad_token_id)
    eos = table.end_token(tokenizer) if add_eos else None
    rows = table.read(source)
    prompts = tf.constant(table.texts(rows, prompt, may_be_empty=True))
    completions = tf.constant(table.texts(rows, completion))

    def fetch(places: tf.Tensor) -> dict[str, tf.Tensor]:
        before = tokenizer.tokenize(tf.gather(prompts, places))  # [B, (P)]
        after = tokenizer.tokenize(tf.gather(completions, places))  # [B, (C)]
        if eos is not None:
            after = table.append(after, eos)
        before, after = table.fit_together(before, after, max_length)
        ids, mask = width.pad(tf.concat([before, after], axis=1))  # [B, T]
        hidden = before.with_flat_values(tf.fill(tf.shape(before.flat_values), -100))
        labels, _ = width.pad(tf.concat([hidden, after], axis=1), fill=-100)  # [B, T]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return order.dataset(len(rows), fetch, deal)
