"""Round trips of arbitrary bytes and code points through the tokenizers."""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2 import GPT2TokenizerFast, TFGPT2Tokenizer

PARTS = [
    *("<|endoftext|>", "<|endof", "'s", "'LL", " ", "  ", "\t", "\r\n", "\n\n", "\u3000", "a" * 70),
    *(
        "\x00",
        "\ufffd",
        "\ufeff",
        "e\u0301",
        "\ufdfa",
        "日本",
        "\U0001f916",
        "\u200d",
        "\u1fb7",
        "½",
    ),
]


def texts(draw, number):
    """Texts of random bytes, random code points, difficult pieces, and mixtures."""
    made = []
    for _ in range(number):
        pieces = []
        for _ in range(draw.integers(0, 8)):
            kind = draw.integers(4)
            if kind == 0:
                pieces.append(draw.bytes(draw.integers(0, 12)))
            elif kind == 1:
                points = draw.integers(0, 0x110000, draw.integers(1, 6))
                pieces.append("".join(chr(p) for p in points if not 0xD800 <= p < 0xE000).encode())
            elif kind == 2:
                pieces.append(PARTS[draw.integers(len(PARTS))].encode())
            else:
                pieces.append(bytes(draw.integers(32, 127, draw.integers(1, 12)).astype("u1")))
        made.append(b"".join(pieces))
    return made


def check(layer, host, made):
    """The properties that hold for any bytes."""
    ids = layer.tokenize(tf.constant(made))
    back = layer.detokenize(ids)
    clean = tf.strings.unicode_transcode(tf.constant(made), "UTF-8", "UTF-8", errors="replace")
    assert back.numpy().tolist() == clean.numpy().tolist()  # valid text is unchanged
    valid = [text.decode() for text in back.numpy()]  # raises if it is not UTF-8
    assert host(valid)["input_ids"] == ids.to_list()
    assert host.batch_decode(ids.to_list()) == valid
    assert int(tf.reduce_max(ids)) < layer.vocab_size and int(tf.reduce_min(ids)) >= 0
    for text, row in zip(made[:3], ids.to_list(), strict=False):  # texts are independent
        assert layer.tokenize(text).numpy().tolist() == row


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.long) for s in (1, 2))])
def test_round_trips(seed, generator, amount, count):
    layer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    host = GPT2TokenizerFast.from_pretrained("shakespeare-tiny")
    number = amount(1000 if seed == 0 else 20_000)
    check(layer, host, texts(generator(seed), number))
    count("texts through both tokenizers and back", number)


@pytest.mark.long
def test_round_trips_in_the_vocabulary_of_gpt2(shared_data, generator, amount, count):
    folder = shared_data / "gpt2_vocab"
    layer, host = TFGPT2Tokenizer.from_pretrained(folder), GPT2TokenizerFast.from_pretrained(folder)
    number = amount(20_000)
    check(layer, host, texts(generator(3), number))
    count("texts through both tokenizers and back", number)


def test_any_ids_give_text(generator, amount, count):
    layer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    number = amount(300)
    ids = generator(5).integers(0, layer.vocab_size, [number, 9])
    for text, row in zip(layer.detokenize(tf.constant(ids)).numpy(), ids, strict=True):
        whole = b"".join(layer.token_bytes[i] for i in row)
        assert text == whole.decode("utf-8", errors="replace").encode()
    count("rows of random ids to text", number)
    assert np.ndim(ids) == 2
