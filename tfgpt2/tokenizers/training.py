"""Training of a byte-level BPE vocabulary, as GPT-2 has it, from text files."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import tokenizers

from tfgpt2.errors import explain, value_error
from tfgpt2.tokenizers.base import END_OF_TEXT
from tfgpt2.tokenizers.host import GPT2Tokenizer
from tfgpt2.validation import check_count

_BYTES = 256
_CHUNK_SIZE = 1 << 20  # bytes read at once
# A pre-token always ends between something and the white space after it, whatever comes next.
# These four are white space in Python and in GPT-2's pattern, which disagree about some others.
_BOUNDARY = re.compile(r"(?<=\S)(?=[ \t\r\n])")


def train_tokenizer(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    vocab_size: int,
    *,
    min_frequency: int = 2,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    show_progress: bool = False,
) -> GPT2Tokenizer:
    """Trains a byte-level BPE vocabulary on text files.

    All 256 bytes are in the vocabulary, so that it can encode any text. Files are read in chunks
    that end where pre-tokens end: the result is the same as for files read as a whole.

    Args:
        files: Path or paths of UTF-8 files; bytes that are not UTF-8 are read as U+FFFD.
        vocab_size: Tokens of the vocabulary, special ones included; at least 256 more than those.
            A small text may give fewer tokens.
        min_frequency: How often a pair must occur to be merged, 1 or more.
        special_tokens: Tokens that never take part in merges; they get the first ids. The first of
            them is start, end and unknown token, as `<|endoftext|>` is in GPT-2.
        show_progress: Whether to show the progress bars of the `tokenizers` library.

    Returns:
        The tokenizer; its `save_pretrained` writes `vocab.json`, `merges.txt`, `tokenizer.json`
        and its settings, which `TFGPT2Tokenizer` and transformers load.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A number is out of range, a special token is empty or named twice, or the files
            are empty.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "text.txt"
        >>> _ = path.write_text("low lower lowest low low")
        >>> train_tokenizer(path, 260).tokenize("low lower")
        ['low', 'Ġlow', 'e', 'r']
    """
    paths = _check_files([files] if isinstance(files, (str, os.PathLike)) else list(files))
    special = _check_special(special_tokens)
    check_count("vocab_size", vocab_size, least=_BYTES + len(special), optional=False)
    check_count("min_frequency", min_frequency, least=1, optional=False)
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show_progress,
    )
    bpe.train_from_iterator((chunk for path in paths for chunk in read_chunks(path)), trainer)
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), special[0]) if special else {}
    return GPT2Tokenizer(tokenizer_object=bpe, **roles)


def read_chunks(path: Path, size: int = _CHUNK_SIZE) -> Iterator[str]:
    """Reads a file in chunks that end where pre-tokens end.

    Args:
        path: A UTF-8 file.
        size: Bytes read at once. Text without white space gives larger chunks.

    Yields:
        Texts; joined, they are the file, without a byte-order mark at its start.
    """
    decoder, text = codecs.getincrementaldecoder("utf-8-sig")(errors="replace"), ""
    with path.open("rb") as file:
        while block := file.read(size):
            text += decoder.decode(block)
            end = max((match.start() for match in _BOUNDARY.finditer(text)), default=0)
            if end:
                yield text[:end]
                text = text[end:]
    text += decoder.decode(b"", final=True)
    if text:
        yield text


def _check_files(paths: list[str | os.PathLike[str]]) -> list[Path]:
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                explain("There is no such file.", fix="Check the path.", path=str(path))
            )
    if not any(path.stat().st_size for path in paths):
        raise value_error(
            "There is no text to train on: the files are empty, or there are none.",
            fix="Pass one or more text files.",
            files=[str(path) for path in paths],
        )
    return paths


def _check_special(tokens: Sequence[str]) -> list[str]:
    tokens = [tokens] if isinstance(tokens, str) else list(tokens)
    if len(set(tokens)) < len(tokens) or not all(isinstance(t, str) and t for t in tokens):
        raise value_error(
            "Special tokens must be distinct non-empty strings.",
            fix=f"Leave them out for {END_OF_TEXT!r} alone.",
            special_tokens=tokens,
        )
    return tokens
