"""Streams of the client: the pieces, stop strings, and the requests behind them."""

import random

import pytest

from tests.support.fake_model import SCRIPT
from tfgpt2.serving.client import streaming
from tfgpt2.serving.client.records import Generation

TEXT = SCRIPT.decode()


@pytest.mark.parametrize("chunk_tokens", [1, 2, 3, 7, 64])
def test_a_stream_is_the_text(client, rest, chunk_tokens):
    stream = client.stream("To", max_new_tokens=500, chunk_tokens=chunk_tokens)
    pieces = list(stream)
    assert "".join(pieces) == stream.text == TEXT[2:] and all(pieces)
    assert stream.finish_reason == "eos" and len(pieces) > 1
    assert not any("\ufffd" in piece for piece in pieces)
    # No request ends within a character: the tokenizer would read U+FFFD.
    assert all(isinstance(body["inputs"]["text"][0], str) for body in rest.bodies())


@pytest.mark.parametrize("chunk_tokens", [1, 2, 5, 8])
@pytest.mark.parametrize(
    "stop", ["\n\n", ["zzz", "日本"], "question.\n\nN", ["be", "or not"], "👩‍🚀"]
)
def test_stop_strings_never_leak(client, stop, chunk_tokens):
    whole = client.generate("To", max_new_tokens=500, stop=stop)
    stream = client.stream("To", max_new_tokens=500, stop=stop, chunk_tokens=chunk_tokens)
    assert "".join(stream) == whole.text
    assert stream.finish_reason == whole.finish_reason == "stop"


def test_streams_end_at_the_limit(client):
    stream = client.stream("To", max_new_tokens=10, chunk_tokens=4)
    assert list(stream) == [" be,", " or ", "no"]
    assert (stream.finish_reason, stream.num_tokens) == ("length", 10)
    cut = TEXT.index("日")  # the limit falls into a character
    stream = client.stream(TEXT[:cut], max_new_tokens=4, chunk_tokens=9)
    assert "".join(stream) == "日\ufffd"
    assert list(client.stream("To", max_new_tokens=0)) == []


def test_each_request_of_a_stream_has_its_own_noise(client, rest):
    stream = client.stream("", temperature=1, seed=5, max_new_tokens=64, chunk_tokens=8)
    text = "".join(stream)
    parts = [text[start : start + 8] for start in range(0, 64, 8)]
    assert len(set(parts)) == 8
    assert parts[0] == client.generate("", temperature=1, seed=5, max_new_tokens=8).text
    assert "".join(client.stream("", temperature=1, seed=5, max_new_tokens=64)) == text
    seeds = [body["inputs"]["seed"][0] for body in rest.bodies()[:8]]
    assert len(set(seeds)) == 8 and all(0 <= seed < 2**63 for seed in seeds)
    assert [body["inputs"]["min_new_tokens"] for body in rest.bodies()[:8]] == [[0]] * 8


def fake_generation(text, reason):

    ids = list(range(len(text)))
    return Generation(text.decode(errors="replace"), text, ids, 1, 0, 0.0, [0.0] * len(ids), reason)


def test_streams_of_random_pieces():
    """Any cut of any bytes: the pieces joined are the decoded text up to the stop string."""
    draw = random.Random(0)
    for _ in range(300):
        letters = draw.choices(["é", "日", "👍", "a", "b", "\n"], k=draw.randint(0, 12))
        raw = "".join(letters).encode() + draw.choice([b"", b"\xff", b"\xe6"])
        stops = [draw.choice(["ab", "\n", "b\n", "日a", "éé"]) for _ in range(draw.randint(0, 2))]
        size = draw.randint(1, 5)

        def ask(prompt, values, raw=raw):
            done = len(prompt) - 1
            part = raw[done : done + values["max_new_tokens"]]
            reason = "eos" if done + len(part) == len(raw) else "length"
            return fake_generation(part, reason)

        values = {"max_new_tokens": 500, "min_new_tokens": 0, "seed": 0}
        stream = streaming.TextStream(ask, b"P", values, [s.encode() for s in stops], size)
        pieces = list(stream)
        cut = streaming.first_stop(raw, [s.encode() for s in stops], 0)
        expected = (raw if cut < 0 else raw[:cut]).decode(errors="replace")
        assert "".join(pieces) == expected
        assert stream.finish_reason == ("eos" if cut < 0 else "stop")


def test_wrong_streams(client):
    with pytest.raises(TypeError, match="continues one text"):
        client.stream(["a"])
    with pytest.raises(ValueError, match="chunk_tokens"):
        client.stream("a", chunk_tokens=0)
    with pytest.raises(TypeError, match="Did you mean 'seed'"):
        client.stream("a", sed=1)
