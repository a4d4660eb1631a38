"""Added special tokens in stop strings, constraints and streams: matched, and not shown."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy_text
from tfgpt2 import GenerationConfig, TextGenerator

CONTENT = "<|end|>"


@pytest.fixture(scope="module")
def gen():
    """A generator whose tokenizer has an added special token."""
    tokens = toy_text.tokenizer(additional_special_tokens=[CONTENT])
    return TextGenerator(toy_text.model(tokens), tokens, jit_compile=False)


@pytest.fixture(scope="module")
def end(gen):
    return gen.tokenizer.token_to_id(CONTENT)


@pytest.fixture(scope="module")
def third(gen, end):
    """Options that make the special token the third one, and the first two tokens."""
    free = gen.generate("abc", details=True, max_new_tokens=2)
    assert free.text_bytes
    return {"sequence_bias": {(*free.token_ids, end): 1000.0}, "max_new_tokens": 8}, free


def test_what_each_id_writes(gen, end):
    texts = gen.pipeline.token_texts
    assert texts.written[end] == CONTENT.encode() and texts.shown[end] == b""
    assert texts.special == {end, gen.tokenizer.eos_token_id}
    assert texts.written[97] == texts.shown[97] == b"a"
    assert set(texts.written[gen.tokenizer.vocab_size :]) == {b""}


@pytest.mark.long
def test_a_stop_string_that_is_a_special_token(gen, end, third):
    options, free = third
    running = gen.generate("abc", details=True, **options)
    assert running.token_ids[2] == end and running.finish_reason == "length"
    assert CONTENT not in running.text
    for stop in (CONTENT, [b"zzz", CONTENT.encode()], "end|", "<|en"):
        out = gen.generate("abc", stop=stop, details=True, **options)
        assert (out.finish_reason, out.text) == ("stop", free.text)
        assert out.token_ids == [*free.token_ids, end]
        assert "".join(gen.stream("abc", stop=stop, **options)) == free.text


@pytest.mark.long
def test_stop_strings_of_text_and_special_tokens(gen, third):
    options, free = third
    before = free.text_bytes[-1:]
    out = gen.generate("abc", stop=before + CONTENT.encode(), details=True, **options)
    assert out.finish_reason == "stop" and out.text_bytes == free.text_bytes[:-1]
    running = gen.generate("abc", details=True, **options)
    later = running.text_bytes[len(free.text_bytes) :][:1]
    out = gen.generate("abc", stop=CONTENT.encode() + later, details=True, **options)
    assert out.finish_reason == "stop" and out.text_bytes == free.text_bytes
    # A cut after the special token is counted in the text without it.
    stop = running.text_bytes[len(free.text_bytes) :][-2:]
    first = running.text_bytes.find(stop)
    out = gen.generate("abc", stop=[stop], details=True, **options)
    assert out.text_bytes == running.text_bytes[:first]
    assert b"".join(piece.encode() for piece in gen.stream("abc", stop=[stop], **options)) == (
        out.text.encode()
    )


@pytest.mark.long
def test_one_stop_per_row_and_beams(gen, end, third):
    options, _ = third
    out = gen.generate(["abc"] * 2, stop=[[CONTENT], []], details=True, **options)
    assert [one.finish_reason for one in out] == ["stop", "length"]
    bias = {"sequence_bias": {(end,): 1000.0}}
    out = gen.generate("abc", stop=CONTENT, num_beams=2, details=True, max_new_tokens=4, **bias)
    assert (out.text, out.finish_reason, out.token_ids) == ("", "stop", [end])


def test_model_generate(gen, end, third):
    options, free = third
    ids = gen.tokenizer("abc")
    out = gen.model.generate(**ids, stop_strings=CONTENT, tokenizer=gen.tokenizer, **options,
                             jit_compile=False, return_dict_in_generate=True)  # fmt: skip
    assert out.finish_reason == ["stop"]
    assert out.sequences[0, 3:].numpy().tolist() == [*free.token_ids, end]


@pytest.mark.long
def test_as_a_graph(gen, third):
    options, free = third
    config = GenerationConfig(stop_strings=[CONTENT], **options)
    model = TextGenerator(gen.model, gen.tokenizer, config, jit_compile=False)
    assert model(tf.constant(["abc"])).numpy().tolist() == [free.text.encode()]


@pytest.mark.long
@pytest.mark.parametrize("constraint", [
    {"choices": [f"yes{CONTENT}", f"no{CONTENT}"]},
    {"regex": r"(yes|no)<\|end\|>"},
    {"json_schema": {"enum": [f"yes{CONTENT}", f"no{CONTENT}"]}},
])  # fmt: skip
def test_constraints(gen, end, constraint):
    quote = '"' if "json_schema" in constraint else ""
    out = gen.generate(["abc", "x"], details=True, max_new_tokens=12, **constraint)
    for one in out:
        assert one.text in (f"{quote}yes{quote}", f"{quote}no{quote}")
        assert one.token_ids.count(end) == 1 and 60 not in one.token_ids  # not spelled out


@pytest.mark.long
def test_the_likelier_choice_wins(gen, end):
    """With the special token as one id, whose score is what the model gives to it."""
    ids = gen.tokenizer.tokenize("abc").numpy().tolist()
    bias = {(end,): 50.0}
    out = gen.generate("abc", choices=[CONTENT, "no"], sequence_bias=bias, details=True,
                       max_new_tokens=8)  # fmt: skip
    assert out.token_ids[0] == end
    logits = gen.model(np.array([ids])).logits[0, -1].numpy().astype(float)
    expected = logits[end] - np.log(np.exp(logits).sum())
    assert out.token_logprobs[0] == pytest.approx(expected, abs=1e-3)
    bias = {(end,): -50.0}
    assert (
        gen.generate("abc", choices=[CONTENT, "no"], sequence_bias=bias, max_new_tokens=8) == "no"
    )


def test_an_end_token_ends_a_choice(gen):
    out = gen.generate("abc", choices=["yes<|endoftext|>"], details=True, max_new_tokens=8)
    assert out.text == "yes" and 60 not in out.token_ids


@pytest.mark.long
def test_exports(gen, third, tmp_path):
    options, free = third
    config = GenerationConfig(stop_strings=[CONTENT], **options)
    TextGenerator(gen.model, gen.tokenizer, config).export(
        tmp_path / "1", jit_compile=False, check=False, signatures=("generate",)
    )
    loaded = tf.saved_model.load(tmp_path / "1")
    out = loaded.generate(tf.constant(["abc", "abc"]), stop=tf.constant([[CONTENT], [""]]))
    assert out["finish_reason"].numpy().tolist() == [b"stop", b"length"]
    assert out["text_bytes"].numpy()[0] == free.text_bytes
    forbidden = GenerationConfig(suppress_tokens=list(range(gen.model.config.vocab_size)))
    TextGenerator(gen.model, gen.tokenizer, forbidden).export(
        tmp_path / "2", jit_compile=False, check=False, signatures=("generate",)
    )
    loaded = tf.saved_model.load(tmp_path / "2")
    out = loaded.generate(tf.constant(["abc"]))
    assert out["finish_reason"].numpy().tolist() == [b"no_token"]
    assert out["num_tokens"].numpy().tolist() == [0] and out["token_ids"].shape == (1, 0)
