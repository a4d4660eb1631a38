"""Documents turned into one long row of tokens, in memory or in a folder, and cut into blocks."""

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

from tfgpt2.errors import explain
from tfgpt2.training.data import sources
from tfgpt2.training.data.schedule import Fetch

_PIECE = 2**18  # bytes of a long text that are tokenized at once
_BATCH = 2**20  # bytes of texts that are tokenized at once
_LABEL_IGNORED = -100


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Tokenized documents, one after the other.

    Attributes:
        tokens: uint16 or int32 `[tokens]`; a file that is mapped into memory where `tokenize` had a
            `cache`.
        starts: int64 `[documents + 1]`, where each document begins, and the end of the last one.
    """

    tokens: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def blocks(self, block_size: int, *, keep_tail: bool = False) -> int:
        """Number of blocks of `block_size` tokens; the last one may be shorter with `keep_tail`.

        Raises:
            ValueError: The text is shorter than a block.
        """
        count = len(self) // block_size
        if keep_tail and len(self) % block_size > 1:  # a single token predicts nothing
            count += 1
        if count < 1:
            raise ValueError(
                explain(
                    "The text is shorter than a block.",
                    fix="Use more text, a smaller `block_size`, or `keep_tail=True`.",
                    tokens=len(self),
                    block_size=block_size,
                )
            )
        return count

    def fetch(self, block_size: int, *, document_mask: bool) -> Fetch:
        """Returns the function that cuts blocks out in the graph; see `data.lm_dataset`."""
        tokens, starts = _shared(self.tokens), tf.constant(self.starts)
        total = tf.constant(len(self), tf.int64)
        columns = tf.range(block_size, dtype=tf.int64)  # [T]

        def fetch(blocks: tf.Tensor) -> dict[str, tf.Tensor]:
            places = blocks[:, None] * block_size + columns  # [B, T]
            real = places < total
            ids = tf.cast(tf.gather(tokens, tf.minimum(places, total - 1)), tf.int32)  # [B, T]
            ids = tf.where(real, ids, 0)
            batch = {"input_ids": ids, "labels": tf.where(real, ids, _LABEL_IGNORED)}
            if document_mask:
                batch |= _bounded(places, starts, batch["labels"])
            return batch

        return fetch


def _bounded(places: tf.Tensor, starts: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
    """Keeps documents apart in blocks.

    Args:
        places: int64 `[B, T]`, where tokens stand in the corpus.
        starts: int64 `[documents + 1]`.
        labels: int32 `[B, T]`.

    Returns:
        A mask bool `[B, 1, T, T]`, positions that begin at 0 in each document, and labels with
        documents' first tokens, which nothing of theirs predicts, not scored.
    """
    flat = tf.searchsorted(starts, tf.reshape(places, [-1]), side="right", out_type=tf.int64) - 1
    document = tf.reshape(flat, tf.shape(places))  # [B, T]
    begin = tf.gather(starts, document)  # [B, T]
    columns = tf.range(tf.shape(places)[1])  # [T]
    same = document[:, :, None] == document[:, None, :]  # [B, T, T]
    causal = columns[None, :] <= columns[:, None]  # [T, T]
    return {
        "attention_mask": (same & causal)[:, None],  # [B, 1, T, T]
        "position_ids": tf.cast(places - tf.maximum(begin, places[:, :1]), tf.int32),  # [B, T]
        "labels": tf.where(places == begin, _LABEL_IGNORED, labels),
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
    """Tokenizes all documents of a source, in the graph and on all processors.

    Args:
        source: See `tfgpt2.training.data.sources.rows`; each row is a document.
        tokenizer: A `TFGPT2Tokenizer`.
        column: The column that holds the texts.
        separator: What ends a document in a text file; None takes a file as one document.
        add_eos: End each document with `tokenizer.eos_token_id`.
        cache: A folder that keeps the tokens; they are then read from there, also by later runs,
            and need no memory of their own.

    Raises:
        ValueError: There is no text, a row has no such column, the tokenizer has no end token, or
            the cache was made from something else.
        TypeError: A text is no text.
        FileNotFoundError: No file has such a name.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> corpus = tokenize(["To be", "or not"], tokenizer)
        >>> len(corpus.starts) - 1
        2
    """
    eos = tokenizer.eos_token_id if add_eos else None
    if add_eos and eos is None:
        raise ValueError(
            explain(
                "The tokenizer has no end token to put between documents.",
                fix="Pass `add_eos=False`, or load it with `eos_token='<|endoftext|>'`.",
                eos_token_id=None,
            )
        )
    documents = _documents(source, column, separator)
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
    if cache is None:
        arrays = list(_token_arrays(documents, tokenizer, eos, dtype))
        tokens = np.concatenate([ids for ids, _ in arrays]) if arrays else np.zeros(0, dtype)
        lengths = np.concatenate([ends for _, ends in arrays]) if arrays else np.zeros(0, int)
        return _checked(tokens, lengths)
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
    """Yields the tokens of some documents, and the length of each document that ends there."""
    trouble: list[Exception] = []

    def sound() -> Iterator[bytes]:
        # An error that passes through the pipeline would come out as one of TensorFlow's.
        try:
            yield from documents
        except Exception as error:
            trouble.append(error)

    def batches() -> Iterator[tuple[list[bytes], list[bool]]]:
        texts, ends, size = [], [], 0
        for document in sound():
            parts = list(sources.pieces(document, _PIECE))
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
    pending = 0  # tokens of a document that goes on in the next batch
    for ids, lengths, ends in dataset.map(
        encode, num_parallel_calls=tf.data.AUTOTUNE
    ).as_numpy_iterator():
        sums = np.cumsum(lengths)
        borders = np.concatenate([[-pending], sums[ends]])
        pending = int(sums[-1] - borders[-1])
        yield ids.astype(dtype), np.diff(borders)
    if trouble:
        raise trouble[0]


def _checked(tokens: np.ndarray, lengths: np.ndarray) -> Corpus:
    if not len(tokens):
        raise ValueError(
            explain(
                "The source holds no text.",
                fix="Check the file names and the column.",
                documents=len(lengths),
            )
        )
    return Corpus(tokens, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _identity(source: Any, tokenizer: Any, eos: int | None, **settings: Any) -> dict[str, Any]:
    """What a cache was made from, as far as it can be known without reading everything."""
    found = sources.files(source)
    if found is not None:
        stats = [(str(path.resolve()), path.stat()) for path in found]
        made_from = [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    else:
        made_from = [type(source).__name__, len(source) if hasattr(source, "__len__") else None]
    spelling = json.dumps([tokenizer.get_vocab(), tokenizer.spec.merges], sort_keys=True)
    digest = hashlib.sha256(spelling.encode()).hexdigest()
    return {"source": made_from, "tokenizer": digest, "eos": eos, **settings}


def _write(
    folder: Path, arrays: Iterator[tuple[np.ndarray, np.ndarray]], dtype: type, identity: Any
) -> None:
    """Writes a cache beside its place and then moves it there, so that it is whole or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        lengths = []
        with (fresh / "tokens.bin").open("wb") as file:
            for ids, some in arrays:
                ids.tofile(file)
                lengths.append(some)
        np.save(fresh / "lengths.npy", np.concatenate([*lengths, np.zeros(0, np.int64)]))
        about = {"dtype": np.dtype(dtype).name, "identity": identity}
        (fresh / "corpus.json").write_text(json.dumps(about, indent=1) + "\n")
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _read(folder: Path, identity: Any) -> Corpus:
    about = json.loads((folder / "corpus.json").read_text())
    wanted = json.loads(json.dumps(identity))
    different = [name for name in wanted if about["identity"].get(name) != wanted[name]]
    if different:
        raise ValueError(
            explain(
                "The cache was made from another source, tokenizer or setting.",
                fix="Delete it, or name another folder.",
                cache=str(folder),
                different=different,
            )
        )
    lengths = np.load(folder / "lengths.npy")
    path = folder / "tokens.bin"
    if not path.stat().st_size:
        return _checked(np.zeros(0, about["dtype"]), lengths)
    # Copy on write: nothing is ever written, but read-only memory cannot be shared.
    return _checked(np.memmap(path, about["dtype"], mode="c"), lengths)


def _shared(tokens: np.ndarray) -> tf.Tensor:
    """A tensor on the same memory, which for a mapped file may be larger than the machine's."""
    tokens = np.ascontiguousarray(tokens)
    if tokens.ctypes.data % 64:  # TensorFlow's own memory is aligned so
        return tf.constant(tokens)
    return tf.experimental.dlpack.from_dlpack(np.asarray(tokens).__dlpack__())
