"""SentencePiece models as data: read from `*.model` files or from a `tokenizer.json`, and checked.

A model that a kernel loads must be sound: the charsmap (the compiled normalization rules) is a trie
whose links and values SentencePiece follows without looking where they lead.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import sentencepiece.sentencepiece_model_pb2 as sentencepiece_proto
from google.protobuf.message import DecodeError

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.json_values import check_value, get_value, list_stages

ModelProto = sentencepiece_proto.ModelProto
Kind = ModelProto.SentencePiece  # of a piece: NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE
SPACE = "\u2581"  # what a space is in a piece
_TYPES = {sentencepiece_proto.TrainerSpec.UNIGRAM, sentencepiece_proto.TrainerSpec.BPE}
_BLOCK = 256  # units of a trie that links stay inside


@functools.lru_cache(maxsize=4)  # of some 1 MB each, and read several times
def parse_model(data: bytes, where: str) -> ModelProto:
    """Returns the SentencePiece model that bytes hold.

    Args:
        data: A serialized model, the contents of `spiece.model` or `tokenizer.model`.
        where: Name of the file, for errors.

    Raises:
        ValueError: It is damaged, or neither Unigram nor BPE.
    """
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise _damaged(where, "it is not a serialized model, or cut short") from error
    if not (model.pieces and model.HasField("trainer_spec") and model.HasField("normalizer_spec")):
        raise _damaged(where, "it lacks pieces, or what follows them: it is cut short")
    kind = model.trainer_spec.model_type
    if kind not in _TYPES:
        name = sentencepiece_proto.TrainerSpec.ModelType.Name(kind)
        raise value_error(
            f"{where!r} is a SentencePiece model of the type {name}; Unigram and BPE are"
            " supported.",
            fix="Tokenize with the `sentencepiece` library, and pass its ids to the model.",
            model_type=name,
        )
    _check_pieces(model, where)
    _check_charsmap(model.normalizer_spec.precompiled_charsmap, where)
    if model.denormalizer_spec.precompiled_charsmap:
        raise value_error(
            f"{where!r} has rules that change decoded texts (`denormalizer_spec`), which are not"
            " supported.",
            fix="Decode with the `sentencepiece` library.",
            file=where,
        )
    return model


def model_from_json(data: Mapping[str, Any]) -> ModelProto:
    """Returns the SentencePiece model of a `tokenizer.json` of the kind Unigram.

    It normalizes as SentencePiece does with the same charsmap: rules apply to the longest match,
    white space at the ends goes, and runs of spaces become one.

    Args:
        data: The contents of `tokenizer.json`.

    Raises:
        ValueError: A value is not of the kind that is expected.
    """
    unigram = get_value(data, "model", dict)
    unknown = unigram.get("unk_id")
    pieces = get_value(unigram, "model.vocab", list)
    if type(unknown) is not int or not 0 <= unknown < len(pieces):
        raise value_error(
            "`model.unk_id` must be the index of a token: SentencePiece needs an unknown token.",
            fix="Set it in `tokenizer.json`.",
            **{"model.unk_id": unknown},
        )
    fallback = get_value(unigram, "model.byte_fallback", bool, False)
    special = {
        get_value(token, "added_tokens.content", str)
        for token in get_value(data, "added_tokens", list, [])
        if check_value(token, "added_tokens", dict).get("special")
    }
    model = ModelProto()
    for index, entry in enumerate(pieces):
        piece, score = read_entry(entry)
        kind = Kind.NORMAL
        if index == unknown:
            kind = Kind.UNKNOWN
        elif fallback and byte_of(piece) is not None:
            kind = Kind.BYTE
        elif piece in special:
            kind = Kind.CONTROL
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type = sentencepiece_proto.TrainerSpec.UNIGRAM
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.byte_fallback = fallback
    model.trainer_spec.unk_id = unknown
    model.trainer_spec.unk_piece = model.pieces[unknown].piece
    model.normalizer_spec.precompiled_charsmap = _charsmap_of_json(data)
    return model


def read_entry(entry: Any) -> tuple[str, float]:
    """Returns a token and its score from `model.vocab` of a `tokenizer.json` of Unigram.

    Raises:
        ValueError: It is no list of a text and a number.

    Example:
        >>> read_entry(["a", -2])
        ('a', -2.0)
    """
    match entry:
        case [str(piece), int(score) | float(score)] if not isinstance(score, bool):
            with contextlib.suppress(UnicodeEncodeError, OverflowError):  # of the one, the other
                piece.encode()
                return piece, float(score)
    raise value_error(
        "`model.vocab` must be a list of tokens with scores.",
        fix="Download or save the tokenizer again.",
        **{"model.vocab": entry},
    )


def byte_of(piece: str) -> int | None:
    """Returns the byte that a piece such as `<0x0A>` stands for, or None.

    Example:
        >>> byte_of("<0x0A>"), byte_of("<0x0a>"), byte_of("a")
        (10, None, None)
    """
    digits = piece[3:5]
    if len(piece) == 6 and piece == f"<0x{digits}>" and set(digits) <= set("0123456789ABCDEF"):
        return int(digits, 16)
    return None


def piece_bytes(model: ModelProto) -> list[bytes]:
    """Returns the bytes that each piece writes: of an unknown one, what SentencePiece writes."""
    surface = model.trainer_spec.unk_surface.encode()
    return [
        surface
        if piece.type == Kind.UNKNOWN
        else b""
        if piece.type == Kind.CONTROL
        else bytes([byte_of(piece.piece)])
        if piece.type == Kind.BYTE
        else piece.piece.replace(SPACE, " ").encode()
        for piece in model.pieces
    ]


def _check_pieces(model: ModelProto, where: str) -> None:
    """Checks that pieces are there once, that one is the unknown one, and that bytes are bytes."""
    seen: set[str] = set()
    for index, piece in enumerate(model.pieces):
        if not piece.piece or piece.piece in seen:
            raise _damaged(where, f"the piece {index} is empty or there twice", piece=piece.piece)
        if piece.type == Kind.BYTE and byte_of(piece.piece) is None:
            raise _damaged(where, f"the piece {index} is no byte", piece=piece.piece)
        if not np.isfinite(piece.score):
            raise _damaged(where, f"the score of piece {index} is no number", score=piece.score)
        seen.add(piece.piece)
    unknown = [piece.piece for piece in model.pieces if piece.type == Kind.UNKNOWN]
    if len(unknown) != 1:
        raise _damaged(where, "it must have one unknown piece", unknown=unknown)
    fallback = sum(piece.type == Kind.BYTE for piece in model.pieces)
    if fallback != (256 if model.trainer_spec.byte_fallback else 0):
        raise _damaged(
            where,
            "`byte_fallback` needs 256 pieces for bytes, and without it there are none",
            byte_fallback=model.trainer_spec.byte_fallback,
            pieces=fallback,
        )


def _check_charsmap(charsmap: bytes, where: str) -> None:
    """Checks that every link of a charsmap's trie leads into it, and every value to a text."""
    if not charsmap:
        return
    size = int.from_bytes(charsmap[:4], "little")
    texts = charsmap[4 + size :]
    sound = size > 0 and size % (4 * _BLOCK) == 0 and texts[-1:] == b"\0"
    if sound:
        units = np.frombuffer(charsmap[4 : 4 + size], "<u4")
        # Source: `DoubleArrayUnit` of darts-clone; bit 31 marks the value of a key.
        is_value = units >> 31 == 1
        offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
        places = np.arange(len(units), dtype=np.uint32)
        ends = (places ^ offsets) | (_BLOCK - 1)
        sound = not np.any(~is_value & (ends >= len(units)))
        sound &= not np.any(is_value & ((units & 0x7FFFFFFF) >= len(texts)))
    if not sound:
        raise _damaged(where, "its normalization rules (`precompiled_charsmap`) are cut short")


def _charsmap_of_json(data: Mapping[str, Any]) -> bytes:
    maps = [
        get_value(step, "normalizer.precompiled_charsmap", str)
        for step in list_stages(data, "normalizer", "normalizers")
        if step["type"] == "Precompiled"
    ]
    if len(maps) > 1:
        raise value_error(
            "`normalizer` may have one `Precompiled` step.",
            fix="Load this tokenizer with the `tokenizers` library instead.",
            steps=len(maps),
        )
    try:
        return base64.b64decode(maps[0], validate=True) if maps else b""
    except binascii.Error as error:
        raise _damaged("tokenizer.json", f"`precompiled_charsmap`: {error}") from error


def _damaged(where: str, reason: str, **received: Any) -> ValueError:
    return value_error(
        f"{where!r} is not a readable SentencePiece model: {reason}.",
        fix="Download or save it again.",
        file=where,
        **received,
    )
