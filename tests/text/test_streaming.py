"""`TextGenerator.stream`: the pieces joined are the text, and characters stay full."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy_text
from tfgpt2 import TextGenerator


def random_options(random):
    """Options that end texts in many ways."""
    stops = [b"\xc3", b"e", b"er", "é".encode(), b"\x98\x80", b"a", b"\x80", b"1", b"\xe5|", b"Sx",
             b":"]  # fmt: skip
    chosen = [stops[i] for i in random.choice(len(stops), random.randint(0, 4), replace=False)]
    return {"max_new_tokens": int(random.randint(0, 40)), "temperature": float(random.rand() * 2),
            "top_k": int(random.randint(0, 40)), "seed": int(random.randint(1000)),
            "stop": chosen}  # fmt: skip


@pytest.mark.long
def test_joined_pieces_are_the_generated_text(gen):
    random, reasons, long_streams = np.random.RandomState(0), set(), 0
    for case in range(60):
        prompt, options = "abcé the"[: random.randint(1, 8)], random_options(random)
        full = gen.generate(prompt, details=True, **options)
        pieces = list(gen.stream(prompt, **options))
        assert "".join(pieces) == full.text, (case, options)
        assert all(pieces) and not any("\ufffd" in p for p in pieces) or "\ufffd" in full.text
        for stop in options["stop"]:
            assert stop not in full.text_bytes
        text = b"".join(gen.tokenizer.token_bytes[token] if token < gen.tokenizer.vocab_size - 1
                        else b"" for token in full.token_ids)  # fmt: skip
        assert text.startswith(full.text_bytes)
        if full.finish_reason == "stop":
            rest = text[len(full.text_bytes) :]
            assert any(rest.startswith(stop) for stop in options["stop"])
        else:
            assert text == full.text_bytes
        reasons.add(full.finish_reason)
        long_streams += len(pieces) > 2
    assert reasons >= {"length", "stop"} and long_streams > 10


@pytest.mark.long
def test_compiled_stream(compiled, gen):
    options = {"max_new_tokens": 15, "temperature": 1.0, "seed": 4}
    assert "".join(compiled.stream("abc", **options)) == gen.generate("abc", **options)


def test_pieces_hold_complete_characters():
    """A model that writes emoji, half a character per token."""
    tokens = toy_text.tokenizer()
    model = toy_text.model(tokens)
    halves = [tokens.token_to_id("ðŁ"), tokens.token_to_id("ĺĢ")]
    for weight in model.weights:
        weight.assign(tf.zeros_like(weight))
    # Each half of the character is followed by the other one.
    table = np.zeros(model.transformer.wte.weight.shape)
    table[halves[0], 0] = table[halves[1], 1] = 1.0
    positions = np.zeros(model.transformer.wpe.weight.shape)
    positions[0::2, 0] = positions[1::2, 1] = 10.0
    model.transformer.wte.weight.assign(table)
    model.transformer.wpe.weight.assign(positions)
    model.transformer.ln_f.weight.assign(np.ones(24))
    emoji = TextGenerator(model, tokens, jit_compile=False)
    pieces = list(emoji.stream("a", max_new_tokens=16))
    assert len(pieces) > 2 and set("".join(pieces)) == {"😀"}
    assert emoji.generate("a", max_new_tokens=3) == "😀\ufffd"
    assert "".join(emoji.stream("a", max_new_tokens=3)) == "😀\ufffd"
    assert emoji.generate("a", max_new_tokens=8, stop=["😀😀"]) == ""
    assert list(emoji.stream("a", max_new_tokens=8, stop=["😀😀"])) == []
    cut = emoji.generate("a", max_new_tokens=8, stop=[b"\x98"], details=True)
    assert (cut.text, cut.text_bytes, cut.finish_reason) == ("\ufffd", b"\xf0\x9f", "stop")


def test_invalid_arguments(gen):
    with pytest.raises(TypeError, match="(?s)stream.. continues one text.*generate"):
        gen.stream(["a", "b"])
    with pytest.raises(TypeError, match="no option 'temp'"):
        gen.stream("a", temp=1)  # before the first piece
    with pytest.raises(ValueError, match="leaves no room"):
        gen.stream("a" * 100)


@pytest.mark.parametrize("options", [
    {"num_beams": 2}, {"penalty_alpha": 0.5, "top_k": 4}, {"num_return_sequences": 2, "seed": 1,
    "temperature": 1.0}, {"best_of": 2, "temperature": 1.0}, {"max_time": 1.0},
])  # fmt: skip
def test_options_that_do_not_stream(gen, options):
    with pytest.raises(ValueError, match="gives one text, as it grows"):
        gen.stream("abc", **options)
