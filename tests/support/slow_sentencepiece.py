"""The slow SentencePiece tokenizers of transformers 4 in a few lines: the oracle of the families.

They cut out special tokens, change each part between them, and encode it with `sentencepiece`.
"""

import io
import re
import unicodedata

import numpy as np
import sentencepiece

SPACE = "\u2581"
ODD_SPACES = "\u2002\u2003\u2005\u2008\u2009\u200a\u202f\u3000\ufffc"
CORPUS = [
    *["Speak the speech, I pray you, as I pronounced it to you, trippingly on the tongue."] * 20,
    *["It's 1599, and they'll play at the Globe: we've paid, I'm glad, you'd know."] * 20,
    *(f"{a},{b} {a}{b}9, éàü ''x''" for a in range(40) for b in range(9)),
]
NOT_PRINTING = {*range(9), *range(11, 32), *range(127, 161), 173, 8203}


def train(texts, **options):
    """Returns a small serialized model, trained on texts."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=out, minloglevel=2, num_threads=1, **options
    )
    return out.getvalue()


def lower(text):
    return "".join(map(str.lower, text))


def clean_albert(text, do_lower_case=False, keep_accents=True):
    text = " ".join(text.strip().split()).replace("``", '"').replace("''", '"')
    if not keep_accents:
        text = unicodedata.normalize("NFKD", text)
        text = "".join(char for char in text if not unicodedata.combining(char))
    return lower(text) if do_lower_case else text


def clean_gpt_sw3(text):
    kept = (char for char in text if ord(char) not in NOT_PRINTING)
    text = "".join(" " if char in ODD_SPACES else char for char in kept)
    return unicodedata.normalize("NFC", text)


def split_commas(processor, ids):
    """Splits the comma off pieces such as `9,`, as Albert does."""
    for piece in map(processor.id_to_piece, ids):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            parts = processor.encode(piece[:-1].replace(SPACE, ""), out_type=str)
            if piece[0] != SPACE and parts[0][0] == SPACE:
                parts = parts[1:] if len(parts[0]) == 1 else [parts[0][1:], *parts[1:]]
            yield from map(processor.piece_to_id, [*parts, ","])
        else:
            yield processor.piece_to_id(piece)


def slow_ids(processor, text, clean=str, special=()):
    """Returns the ids of a text.

    Args:
        processor: A `SentencePieceProcessor`.
        text: The text.
        clean: What happens to each part of the text between special tokens.
        special: Special tokens, which are pieces of the model.
    """
    parts = [text]
    if special:
        longest = sorted(special, key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, longest)) + ")", text)
    ids = []
    for part in filter(None, parts):
        one = part in special
        ids += [processor.piece_to_id(part)] if one else processor.encode(clean(part))
    return ids


def assert_same_ids(processor, got, expected, ties=0):
    """Compares ids of texts; a few may be another choice that is equally likely up to rounding.

    From version 0.2.2 on `sentencepiece` rounds otherwise than its versions before, and TF Text.
    """
    assert len(got) == len(expected)
    other = [(a, b) for a, b in zip(got, expected, strict=True) if a != b]
    for pair in other:
        texts = ["".join(map(processor.id_to_piece, ids)) for ids in pair]
        scores = [np.sum([processor.get_score(i) for i in ids], dtype=np.float64) for ids in pair]
        assert texts[0] == texts[1], (pair, texts)
        np.testing.assert_allclose(*scores, rtol=1e-6)
    assert len(other) <= ties
