"""Byte-level BPE: pre-tokens to token ids inside the graph.

`build_tables` turns a vocabulary and its merges, on the host, into constants for the graph:

* a table of whole pre-tokens, which covers most of a text in one lookup;
* a SentencePiece BPE model for the rest, in which a piece is a token's bytes read as Latin-1 and
  its score the negative rank of its merge.

SentencePiece merges two neighbours when their *concatenation* is a piece; byte-level BPE when the
*pair* is a merge. Both do the same if every piece is a token that BPE makes of its own text: while
BPE runs on a text, the part between two token boundaries goes through the same states as it would
on its own. So neighbours `x, y` that spell the token `t` appear only if they are the last state
of BPE run on `t` alone, and then the pair is the merge whose rank is the score of `t`. So
`build_tables` leaves out the tokens that BPE does not make of their own text (it never makes them
at all), and scores a token that several merges spell by the one that fires.

`W` is the number of pre-tokens, `M` of tokens, `V` the size of the vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

import numpy as np
import sentencepiece.sentencepiece_model_pb2 as sentencepiece_proto
import tensorflow as tf
import tokenizers

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.segments import Rows, scatter_misses

_UNKNOWN_PIECE = "\u0100"  # Never in a text: it is not Latin-1.


def _byte_characters() -> dict[int, str]:
    """Returns the printable character of each byte in `vocab.json`.

    Source:
        `bytes_to_unicode` of OpenAI's `gpt-2/src/encoder.py`: printable Latin-1 characters stand
        for themselves, the other bytes for the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    return characters | {byte: chr(256 + index) for index, byte in enumerate(others)}


BYTE_TO_CHARACTER = _byte_characters()
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class BPETables:
    """Tables of byte-level BPE, as host constants.

    Attributes:
        sentencepiece_model: A serialized SentencePiece model.
        piece_ids: int32 `[P]`, the token id of each SentencePiece piece.
        words: The pre-tokens that are one token, as bytes.
        word_ids: int32 `[len(words)]`, their ids.
        missing: RE2 pattern of the bytes (read as Latin-1) that no token spells, or "" if none.
    """

    sentencepiece_model: bytes
    piece_ids: np.ndarray
    words: list[bytes]
    word_ids: np.ndarray
    missing: str


def token_to_bytes(token: str) -> bytes:
    r"""Returns the bytes a token of `vocab.json` stands for.

    Args:
        token: A token, one printable character per byte.

    Returns:
        Its bytes; a token with a character that stands for no byte counts as plain text.

    Source:
        `ByteLevel` decoder of `tokenizers`.

    Example:
        >>> token_to_bytes("Ġthe"), token_to_bytes("日")
        (b' the', b'\xe6\x97\xa5')
    """
    try:
        return bytes([CHARACTER_TO_BYTE[character] for character in token])
    except KeyError:
        return token.encode("utf-8", errors="replace")


def build_tables(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    unk_id: int | None = None,
    fuse_unk: bool = False,
) -> BPETables:
    """Makes the tables of a vocabulary and its merges.

    Args:
        vocab: Token to id, in the characters of `vocab.json`.
        merges: Pairs of tokens, the most urgent first.
        unk_id: Id of a byte without a token; None drops such bytes.
        fuse_unk: Whether neighbouring bytes without a token become one `unk_id`.

    Returns:
        The tables.

    Raises:
        ValueError: A merge names a token the vocabulary does not have.

    Example:
        >>> tables = build_tables({"a": 0, "b": 1, "ab": 2}, [("a", "b")])
        >>> sorted(tables.words), tables.piece_ids.tolist()
        ([b'a', b'ab', b'b'], [-1, 0, 1, 2])
    """
    check_merges(vocab, merges)
    scores = piece_scores(vocab, merges, CHARACTER_TO_BYTE)
    missing = [byte for byte, character in BYTE_TO_CHARACTER.items() if character not in vocab]
    pieces = [(token_to_bytes(token), vocab[token], score) for token, score in scores.items()]
    if unk_id is not None and not fuse_unk:
        # SentencePiece fuses neighbouring unknowns, so here they are ordinary pieces.
        pieces += [(bytes([byte]), unk_id, 0.0) for byte in missing]
    dropped = missing if unk_id is None else []
    return BPETables(
        sentencepiece_model=sentencepiece_model(
            [(text.decode("latin-1"), score) for text, _, score in pieces], _UNKNOWN_PIECE
        ),
        piece_ids=np.array(
            [-1 if unk_id is None else unk_id, *(token_id for _, token_id, _ in pieces)], np.int32
        ),
        words=[text for text, _, _ in pieces],
        word_ids=np.array([token_id for _, token_id, _ in pieces], np.int32),
        missing="[" + "".join(rf"\x{{{byte:x}}}" for byte in sorted(dropped)) + "]+"
        if dropped
        else "",
    )


def encode(
    words: Rows,
    look_up: Callable[[tf.Tensor], tf.Tensor],
    run_sentencepiece: Callable[[tf.Tensor], tf.RaggedTensor],
    piece_ids: tf.Tensor,
    missing: str,
) -> tf.RaggedTensor:
    """Turns pre-tokens into token ids.

    Args:
        words: Pre-tokens `[W]` and the row splits `[R + 1]` of the rows they belong to.
        look_up: Whole pre-tokens to int32 ids, -1 for the unknown ones.
        run_sentencepiece: UTF-8 text `[U]` to piece indices `[U, (pieces)]`.
        piece_ids: int32 `[P]`, see `BPETables`.
        missing: See `BPETables`.

    Returns:
        int32 token ids `[R, (tokens)]`.
    """
    ids = look_up(words.values)  # [W]
    misses = tf.where(ids < 0)  # [misses, 1]
    texts, text_of_miss = tf.unique(tf.gather_nd(words.values, misses))  # [U], [misses]
    latin = tf.strings.unicode_transcode(texts, "ISO-8859-1", "UTF-8")
    if missing:
        latin = tf.strings.regex_replace(latin, missing, "")
    pieces = run_sentencepiece(latin)  # [U, (pieces)]
    ids_of_miss = pieces.with_values(tf.gather(piece_ids, pieces.values))
    return scatter_misses(words, ids, misses, text_of_miss, ids_of_miss)


def check_merges(vocab: Mapping[str, int], merges: Iterable[tuple[str, str]]) -> None:
    """Raises `ValueError` when a merge uses a token that the vocabulary does not have."""
    for rank, (left, right) in enumerate(merges):
        absent = [token for token in (left, right, left + right) if token not in vocab]
        if absent:
            raise value_error(
                f"A merge uses the token {absent[0]!r}, which the vocabulary does not have.",
                fix="Pass the vocabulary and the merges of one and the same tokenizer.",
                merge=f"{left} {right}",
                rank=rank,
            )


def piece_scores(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], symbols: Container[str]
) -> dict[str, float]:
    """Returns the tokens that BPE makes of their own text, with their SentencePiece scores.

    Args:
        vocab: Token to id.
        merges: Pairs of tokens, the most urgent first.
        symbols: The characters that BPE begins with.
    """
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    scores = {token: 0.0 for token in vocab if token in symbols}
    model = tokenizers.models.BPE(dict(vocab), list(ranks))
    ranks_of: dict[str, list[int]] = {}
    for (left, right), rank in ranks.items():
        ranks_of.setdefault(left + right, []).append(rank)
    for token, options in ranks_of.items():
        if not all(character in symbols for character in token):
            continue  # No text contains it.
        if [made.id for made in model.tokenize(token)] != [vocab[token]]:
            continue
        rank = options[0] if len(options) == 1 else _last_merge(token, ranks)
        scores[token] = -float(rank)
    return scores


def _last_merge(token: str, ranks: Mapping[tuple[str, str], int]) -> int:
    """Returns the rank of the merge that completes a token when BPE runs on its own text."""
    symbols, rank = list(token), -1
    while len(symbols) > 1:
        pairs = list(zip(symbols, symbols[1:], strict=False))
        place = min(range(len(pairs)), key=lambda index: ranks.get(pairs[index], len(ranks)))
        rank = ranks[pairs[place]]
        symbols[place : place + 2] = ["".join(pairs[place])]
    return rank


def sentencepiece_model(pieces: Sequence[tuple[str, float]], unknown: str) -> bytes:
    """Returns a SentencePiece BPE model without any normalization.

    Args:
        pieces: Text and score of each piece. Indices start from 1; index 0 is the unknown piece.
        unknown: Text of the unknown piece, which is never in a text.
    """
    kinds = sentencepiece_proto.ModelProto.SentencePiece
    model = sentencepiece_proto.ModelProto()
    model.pieces.add(piece=unknown, score=0.0, type=kinds.UNKNOWN)
    for text, score in pieces:
        model.pieces.add(piece=text, score=score, type=kinds.NORMAL)
    model.trainer_spec.model_type = sentencepiece_proto.TrainerSpec.BPE
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.unk_piece = unknown
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = False
    return model.SerializeToString()
