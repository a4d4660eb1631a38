"""Trains a byte-level BPE vocabulary, GPT-2's kind, from text files."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import tokenizers

from tfgpt2.errors import explain
from tfgpt2.tokenizers.host import GPT2Tokenizer

END_OF_TEXT = "<|endoftext|>"
_BYTES = 256
_CHUNK = 1 << 20  # bytes read at once
# Between something and the white space after it a pre-token always ends, whatever comes next.
# Python takes some control characters for white space that GPT-2's pattern does not: name the sure.
_BORDER = re.compile(r"(?<=\S)(?=[ \t\r\n])")


def train_tokenizer(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    vocab_size: int,
    *,
    min_frequency: int = 2,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    show_progress: bool = False,
) -> GPT2Tokenizer:
    """Learns merges from text files.

    All 256 bytes are in the vocabulary, so that any text can be written in it. Files are read in
    pieces, cut where tokens end anyway: the result is that of each file read as a whole.

    Args:
        files: Path or paths of UTF-8 files; bytes that are not UTF-8 are read as U+FFFD.
        vocab_size: Tokens of the vocabulary, special ones included; at least 256 more than those.
            A small text may give fewer.
        min_frequency: How often a pair must occur to be merged, 1 or more.
        special_tokens: Tokens that never take part in merges; they get the first ids. The first of
            them is start, end and unknown token, as `<|endoftext|>` is GPT-2's.
        show_progress: Show the `tokenizers` library's bars on standard error.

    Returns:
        The tokenizer; its `save_pretrained` writes `vocab.json`, `merges.txt`, `tokenizer.json`
        and its settings, which `TFGPT2Tokenizer` and transformers load.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A number is out of range, a special token is empty or named twice, or the files
            hold no text.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "text.txt"
        >>> _ = path.write_text("low lower lowest low low")
        >>> train_tokenizer(path, 260).tokenize("low lower")
        ['low', 'Ġlow', 'e', 'r']
    """
    paths = _check_files([files] if isinstance(files, (str, os.PathLike)) else list(files))
    special = _check_special(special_tokens)
    _check_sizes(vocab_size, min_frequency, len(special))
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
    bpe.train_from_iterator((piece for path in paths for piece in pieces(path)), trainer)
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), special[0]) if special else {}
    return GPT2Tokenizer(tokenizer_object=bpe, **roles)


def pieces(path: Path, size: int = _CHUNK) -> Iterator[str]:
    """Reads a file in pieces that no token spans.

    Args:
        path: A UTF-8 file.
        size: Bytes read at once. Text without white space makes larger pieces.

    Yields:
        Texts that are the file when joined.
    """
    decoder, held = codecs.getincrementaldecoder("utf-8")(errors="replace"), ""
    with path.open("rb") as file:
        while block := file.read(size):
            held += decoder.decode(block)
            border = max((match.start() for match in _BORDER.finditer(held)), default=0)
            if border:
                yield held[:border]
                held = held[border:]
    held += decoder.decode(b"", final=True)
    if held:
        yield held


def _check_files(paths: list[str | os.PathLike[str]]) -> list[Path]:
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                explain("There is no such file.", fix="Check the path.", path=str(path))
            )
    if not any(path.stat().st_size for path in paths):
        raise ValueError(
            explain(
                "There is no text to learn from: the files are empty, or none is named.",
                fix="Name one or more text files.",
                files=[str(path) for path in paths],
            )
        )
    return paths


def _check_special(tokens: Sequence[str]) -> list[str]:
    tokens = [tokens] if isinstance(tokens, str) else list(tokens)
    if len(set(tokens)) < len(tokens) or not all(isinstance(t, str) and t for t in tokens):
        raise ValueError(
            explain(
                "Special tokens are strings that are not empty, each named once.",
                fix=f"Leave them out for {END_OF_TEXT!r} alone.",
                special_tokens=tokens,
            )
        )
    return tokens


def _check_sizes(vocab_size: int, min_frequency: int, special: int) -> None:
    least = _BYTES + special
    for name, value, lowest in (
        ("vocab_size", vocab_size, least),
        ("min_frequency", min_frequency, 1),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise ValueError(
                explain(
                    f"`{name}` must be an integer, {lowest} or more.",
                    fix=f"256 bytes and {special} special tokens are always in the vocabulary;"
                    " GPT-2 has 50257 tokens, the bundled model 1024.",
                    **{name: value},
                )
            )
