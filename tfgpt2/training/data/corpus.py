"""Tokenized corpora: documents joined into one row of tokens, in memory or cached, in blocks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import unreadable, value_error
from tfgpt2.files import read_json_object
from tfgpt2.training.data import sources
from tfgpt2.training.data.padding import LABEL_IGNORED, end_token
from tfgpt2.training.data.schedule import Fetch
from tfgpt2.training.output_files import report_write_errors

_PIECE = 2**18  # bytes of a piece of a long text
_BATCH = 2**20  # bytes of texts that are tokenized at once


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Tokenized documents, concatenated.

    Attributes:
        tokens: uint16 or int32 `[tokens]`; a memory-mapped file if `tokenize` had a `cache`.
        starts: int64 `[documents + 1]`, where each document begins, and the end of the last one.
    """

    tokens: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def blocks(self, block_size: int, *, keep_tail: bool = False) -> int:
        """Number of blocks of `block_size` tokens; with `keep_tail` the last one may be shorter.

        Raises:
            ValueError: The text is shorter than a block.
        """
        count = len(self) // block_size
        if keep_tail and len(self) % block_size > 1:  # a single token has no target
            count += 1
        if count < 1:
            raise value_error(
                "The text is shorter than a block.",
                fix="Use more text, a smaller `block_size`, or `keep_tail=True`.",
                tokens=len(self),
                block_size=block_size,
            )
        return count

    def fetch(self, block_size: int, *, document_mask: bool) -> Fetch:
        """Returns the function that gathers blocks in the graph; see `data.lm_dataset`."""
        tokens, starts = _without_copy(self.tokens), tf.constant(self.starts)
        total = tf.constant(len(self), tf.int64)
        columns = tf.range(block_size, dtype=tf.int64)  # [T]

        def fetch(blocks: tf.Tensor) -> dict[str, tf.Tensor]:
            offsets = blocks[:, None] * block_size + columns  # [B, T]
            real = offsets < total
            ids = tf.cast(tf.gather(tokens, tf.minimum(offsets, total - 1)), tf.int32)  # [B, T]
            ids = tf.where(real, ids, 0)
            batch = {"input_ids": ids, "labels": tf.where(real, ids, LABEL_IGNORED)}
            if document_mask:
                batch |= _document_mask(offsets, starts, batch["labels"])
            return batch

        return fetch


def _document_mask(
    offsets: tf.Tensor, starts: tf.Tensor, labels: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Separates the documents of a block.

    Args:
        offsets: int64 `[B, T]`, indices of the tokens in the corpus.
        starts: int64 `[documents + 1]`.
        labels: int32 `[B, T]`.

    Returns:
        A mask bool `[B, 1, T, T]`, positions that begin at 0 in each document, and labels in which
        the first token of a document, which has no context, is not scored.
    """
    flat = tf.searchsorted(starts, tf.reshape(offsets, [-1]), side="right", out_type=tf.int64) - 1
    document = tf.reshape(flat, tf.shape(offsets))  # [B, T]
    begin = tf.gather(starts, document)  # [B, T]
    columns = tf.range(tf.shape(offsets)[1])  # [T]
    same = document[:, :, None] == document[:, None, :]  # [B, T, T]
    causal = columns[None, :] <= columns[:, None]  # [T, T]
    return {
        "attention_mask": (same & causal)[:, None],  # [B, 1, T, T]
        "position_ids": tf.cast(offsets - tf.maximum(begin, offsets[:, :1]), tf.int32),  # [B, T]
        "labels": tf.where(offsets == begin, LABEL_IGNORED, labels),
    }


def tokenize(
    source: Any,
    tokenizer: Any,
    *,
    column: str = sources.TEXT,
    separator: str | None = None,
    add_eos: bool = True,
    cache: str | os.PathLike[str] | None = None,
) -> Corpus:
    """Tokenizes all documents of a source in a parallel `tf.data` pipeline.

    Args:
        source: See `tfgpt2.training.data.sources.rows`; each row is a document.
        tokenizer: A `TFGPT2Tokenizer`.
        column: Name of the column of texts.
        separator: Ends a document in a text file; None reads a file as one document.
        add_eos: End each document with `tokenizer.eos_token_id`.
        cache: A folder for the tokens; they are then memory-mapped from there, also by later
            runs.

    Raises:
        ValueError: There is no text, a row has no such column, the tokenizer has no end token, or
            the cache was made from another source, tokenizer or setting.
        TypeError: A value of the column is not a text.
        FileNotFoundError: No file has this name.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> corpus = tokenize(["To be", "or not"], tokenizer)
        >>> len(corpus.starts) - 1
        2
    """
    eos = end_token(tokenizer) if add_eos else None
    documents = _documents(source, column, separator)
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
    if cache is None:
        arrays = list(_token_arrays(documents, tokenizer, eos, dtype))
        tokens = np.concatenate([ids for ids, _ in arrays]) if arrays else np.zeros(0, dtype)
        lengths = np.concatenate([ends for _, ends in arrays]) if arrays else np.zeros(0, int)
        return _make_corpus(tokens, lengths)
    identity = _identity(source, tokenizer, eos, column=column, separator=separator)
    folder = Path(cache)
    if not (folder / "corpus.json").exists():
        _write(folder, _token_arrays(documents, tokenizer, eos, dtype), dtype, identity)
    return _read(folder, identity)


def _documents(source: Any, column: str, separator: str | None) -> Iterator[bytes]:
    for number, row in enumerate(sources.rows(source, separator=separator)):
        document = sources.text(sources.column(row, column, number), column, number)
        if document:
            yield document


def _token_arrays(
    documents: Iterator[bytes], tokenizer: Any, eos: int | None, dtype: type
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches of tokens, and the length of each document that ends in the batch."""
    errors: list[Exception] = []

    def readable() -> Iterator[bytes]:
        # The pipeline would turn an error into one of TensorFlow's.
        try:
            yield from documents
        except Exception as error:
            errors.append(error)

    def batches() -> Iterator[tuple[list[bytes], list[bool]]]:
        texts, ends, size = [], [], 0
        for document in readable():
            parts = list(sources.split_document(document, _PIECE))
            for i, part in enumerate(parts):
                texts.append(part)
                ends.append(i == len(parts) - 1)
                size += len(part)
                if size > _BATCH:
                    yield texts, ends
                    texts, ends, size = [], [], 0
        if texts:
            yield texts, ends

    def encode(texts: tf.Tensor, ends: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        ids = tokenizer.tokenize(texts)  # [B, (T)]
        if eos is not None:
            last = tf.fill([tf.reduce_sum(tf.cast(ends, tf.int32))], eos)
            ids = tf.concat(
                [ids, tf.RaggedTensor.from_row_lengths(last, tf.cast(ends, tf.int64))], axis=1
            )
        return ids.flat_values, ids.row_lengths(), ends

    signature = (tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.bool))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    pending = 0  # tokens of a document that continues in the next batch
    for ids, lengths, ends in dataset.map(
        encode, num_parallel_calls=tf.data.AUTOTUNE
    ).as_numpy_iterator():
        sums = np.cumsum(lengths)
        boundaries = np.concatenate([[-pending], sums[ends]])
        pending = int(sums[-1] - boundaries[-1])
        yield ids.astype(dtype), np.diff(boundaries)
    if errors:
        raise errors[0]


def _make_corpus(tokens: np.ndarray, lengths: np.ndarray) -> Corpus:
    if not len(tokens):
        raise value_error(
            "The source holds no text.",
            fix="Check the file names and the column.",
            documents=len(lengths),
        )
    return Corpus(tokens, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _identity(source: Any, tokenizer: Any, eos: int | None, **settings: Any) -> dict[str, Any]:
    """Source, tokenizer and settings of a cache; files are identified by size and time."""
    found = sources.files(source)
    if found is not None:
        stats = [(str(path.resolve()), path.stat()) for path in found]
        made_from = [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    else:
        made_from = [type(source).__name__, len(source) if hasattr(source, "__len__") else None]
    vocabulary = [tokenizer.get_vocab(), tokenizer.spec.to_options()]
    digest = hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()
    return {"source": made_from, "tokenizer": digest, "eos": eos, **settings}


def _write(
    folder: Path, arrays: Iterator[tuple[np.ndarray, np.ndarray]], dtype: type, identity: Any
) -> None:
    """Writes a cache atomically: to a temporary folder, which is then renamed."""
    temporary = None
    try:
        with report_write_errors("The token cache", folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
            lengths = []
            with (temporary / "tokens.bin").open("wb") as file:
                for ids, some in arrays:
                    file.write(ids.tobytes())  # `tofile` does not say that the disk is full
                    lengths.append(some)
            np.save(temporary / "lengths.npy", np.concatenate([*lengths, np.zeros(0, np.int64)]))
            about = {"dtype": np.dtype(dtype).name, "identity": identity}
            (temporary / "corpus.json").write_text(json.dumps(about, indent=1) + "\n")
            os.replace(temporary, folder)
    except OSError:
        if not (folder / "corpus.json").exists():  # else another process was faster
            raise
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: Path, identity: Any) -> Corpus:
    about = read_json_object(folder / "corpus.json", "cache")
    if not {"dtype", "identity"} <= about.keys() or not isinstance(about["identity"], dict):
        raise unreadable(folder / "corpus.json", "it lacks a part", kind="cache")
    wanted = json.loads(json.dumps(identity))
    different = [name for name in wanted if about["identity"].get(name) != wanted[name]]
    if different:
        raise value_error(
            "The cache was made from another source, tokenizer or setting.",
            fix="Delete it, or pass another folder.",
            cache=str(folder),
            different=different,
        )
    lengths = np.load(folder / "lengths.npy")
    path = folder / "tokens.bin"
    if not path.stat().st_size:
        return _make_corpus(np.zeros(0, about["dtype"]), lengths)
    # Copy on write: nothing is written, but TensorFlow cannot share read-only memory.
    return _make_corpus(np.memmap(path, about["dtype"], mode="c"), lengths)


def _without_copy(tokens: np.ndarray) -> tf.Tensor:
    """A tensor on the memory of an array: a mapped file may be larger than the machine's memory."""
    tokens = np.ascontiguousarray(tokens)
    if tokens.ctypes.data % 64:  # the alignment that TensorFlow requires
        return tf.constant(tokens)
    return tf.experimental.dlpack.from_dlpack(np.asarray(tokens).__dlpack__())
