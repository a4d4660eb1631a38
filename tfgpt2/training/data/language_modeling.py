"""Datasets for language modeling: blocks of joined documents, and prompts with completions.

As in `classification` and `qa`, every function takes a source (see
`tfgpt2.training.data.sources.rows`) and a `TFGPT2Tokenizer`, and returns a `tf.data.Dataset` of
dicts for `model.fit`. The last arguments of each are those of
`tfgpt2.training.data.schedule.BatchSchedule`: `shuffle`, `seed`, `epochs`, `skip_batches`,
`drop_remainder`, `num_shards`, `shard_index`. A batch depends on these and its number alone, so
`skip_batches=n` resumes exactly after batch `n`, at no cost, in any epoch.
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from tfgpt2.training.data import corpus, sources
from tfgpt2.training.data.columns import text_column
from tfgpt2.training.data.corpus import Corpus
from tfgpt2.training.data.padding import Padding, append_token, end_token, truncate_pair
from tfgpt2.training.data.schedule import BatchSchedule
from tfgpt2.validation import check_count

_OPTIONS = ("column", "separator", "add_eos", "cache", "document_mask", "keep_tail")


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
    """Language-modeling data: documents joined and cut into full blocks.

    Args:
        source: Texts, or a `Corpus` that `tokenize_corpus` made.
        tokenizer: A `TFGPT2Tokenizer`; None with a `Corpus`.
        block_size: Tokens in a block, 2 or more.
        batch_size: Blocks in a batch.
        document_mask: Separate documents: tokens attend to their own document only, positions
            restart in each, and its first token is not scored. Otherwise a block is one text.
        keep_tail: Keep the tokens after the last full block, as a block padded at its end.
        column: Name of the column of texts.
        separator: Ends a document in a text file.
        add_eos: End each document with the end token.
        cache: A folder for the tokens; see `tokenize_corpus`.
        **options: See `tfgpt2.training.data.schedule.BatchSchedule`.

    Returns:
        Batches of `input_ids` and `labels`, int32 `[B, T]`; with `document_mask` also
        `attention_mask`, bool `[B, 1, T, T]`, and `position_ids`, int32 `[B, T]`.

    Raises:
        ValueError: There is too little text, or a value is out of range.
        TypeError: There is no such option, or texts cannot be read from the source.
        FileNotFoundError: No file has this name.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> data = lm_dataset(["To be, or not to be"] * 9, tokenizer, block_size=8, batch_size=2)
        >>> data.element_spec["input_ids"].shape
        TensorShape([None, 8])
    """
    check_count("block_size", block_size, least=2)
    schedule = BatchSchedule.from_options(batch_size, options, _OPTIONS)
    if not isinstance(source, Corpus):
        source = corpus.tokenize(
            source, tokenizer, column=column, separator=separator, add_eos=add_eos, cache=cache
        )
    blocks = source.blocks(block_size, keep_tail=keep_tail)
    return schedule.dataset(blocks, source.fetch(block_size, document_mask=document_mask))


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
    """Prompts with completions, of which only the completions are scored.

    Both are tokenized separately, so a completion must begin with the space that it needs. A row
    that is too long loses the beginning of its prompt first, then the end of its completion.

    Args:
        source: Rows with the two columns.
        tokenizer: A `TFGPT2Tokenizer`.
        max_length: Most tokens of a row, 2 or more.
        batch_size: Rows in a batch.
        prompt: Name of the column of prompts.
        completion: Name of the column of completions.
        add_eos: End each completion with the end token.
        pad_to_multiple_of: Pad to the longest row of the batch, rounded up to this, and not to
            `max_length`; each width is compiled separately.
        **options: See `tfgpt2.training.data.schedule.BatchSchedule`.

    Returns:
        Batches of `input_ids`, `attention_mask` and `labels`, int32 `[B, T]`; labels of prompts
        and padding are -100.

    Raises:
        ValueError: A row has no such column or an empty completion, or a value is out of range.
        TypeError: A value of a column is not a text, or there is no such option.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> rows = [{"prompt": "To be,", "completion": " or not"}]
        >>> batch = next(iter(completion_dataset(rows, tokenizer, 12, 1)))
        >>> int(batch["labels"][0, 0]), batch["labels"].shape
        (-100, TensorShape([1, 12]))
    """
    schedule = BatchSchedule.from_options(batch_size, options)
    padding = Padding(max_length, pad_to_multiple_of, tokenizer.pad_token_id)
    eos = end_token(tokenizer) if add_eos else None
    rows = sources.read_rows(source)
    prompts = tf.constant(text_column(rows, prompt, allow_empty=True))
    completions = tf.constant(text_column(rows, completion))

    def fetch(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        before = tokenizer.tokenize_prompts(tf.gather(prompts, indices))  # [B, (P)]
        after = tokenizer.tokenize(tf.gather(completions, indices))  # [B, (C)]
        if eos is not None:
            after = append_token(after, eos)
        before, after = truncate_pair(before, after, max_length)
        ids, mask = padding.pad(tf.concat([before, after], axis=1))  # [B, T]
        labels = padding.completion_labels(before, after)  # [B, T]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return schedule.dataset(len(rows), fetch)
