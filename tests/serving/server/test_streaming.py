"""Streams of a toy language model in plain Python equal its text of one request."""

import asyncio
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt2.serving.server.completion_choice import openai_finish_reason
from tfgpt2.serving.server.streaming import stream
from tfgpt2.serving.server.text_model import TextModel

# Parts of characters, and tokens that join two others: a generated text is often tokenized into
# other tokens than the generated ones.
VOCABULARY = [b"", b"a", b"b", b"ab", b"ba", b" ", b"abab", *(bytes([c]) for c in "é你😀".encode()),
              "é".encode(), b"\xff"]  # fmt: skip
END = 0


def tokenize(text):
    """Takes the longest token first; bytes that are not UTF-8 become U+FFFD, which is 'ab' here."""
    text = text.decode("utf-8", "replace").replace("\ufffd", "ab").encode()
    ids = []
    while text:
        best = max((t for t in VOCABULARY if t and text.startswith(t)), key=len, default=None)
        assert best is not None, text
        ids.append(VOCABULARY.index(best))
        text = text[len(best) :]
    return ids


class ToyModel:
    """Runs the signatures of an export; the next token is a hash of all tokens, seed and step."""

    max_rows = 4

    def __init__(self, ends):
        self.ends, self.calls = ends, 0

    def next(self, ids, seed, step, sampled):
        key = bytes(ids) + (b"%d %d" % (seed, step) if sampled else b"")
        draw = hashlib.sha256(key).digest()[0]
        if draw < self.ends:
            return END
        return 1 + draw % (len(VOCABULARY) - 1)

    def generate(self, prompt, limit, stops=(), seed=0, sampled=False):
        """Returns tokens, text before a stop string, and finish reason of one request."""
        ids, new, text = tokenize(prompt), [], b""
        for step in range(limit):
            token = self.next(ids + new, seed, step, sampled)
            new.append(token)
            before, text = len(text), text + VOCABULARY[token]
            if token == END:
                return new, text, "eos"
            # As the compiled loop: of the strings that this token completes, the first to start.
            longest = max([1, *map(len, stops)])
            found = [text.find(stop, max(0, before - longest + 1)) for stop in stops]
            found = [place for place in found if place >= 0]
            if found:
                return new, text[: min(found)], "stop"
        return new, text, "length"

    async def __call__(self, signature, inputs):
        self.calls += 1
        if signature == "tokenize":
            ids = tokenize(inputs["text"][0])
            return {"ids": np.array([ids + [0]]), "num_tokens": np.array([len(ids)])}
        if signature == "detokenize":
            assert inputs["ids"].shape[0] <= self.max_rows
            return {"text_bytes": np.array([VOCABULARY[i] for i in inputs["ids"][:, 0]], object)}
        stops = [stop for stop in inputs["stop"][0] if stop]
        sampled = inputs["temperature"][0] > 0
        new, text, reason = self.generate(
            inputs["text"][0], int(inputs["max_new_tokens"][0]), stops, inputs["seed"][0], sampled
        )
        return {
            "token_ids": np.array([new + [0] * 3]),
            "num_tokens": np.array([len(new)]),
            "prompt_tokens": np.array([len(tokenize(inputs["text"][0]))]),
            "finish_reason": np.array([reason.encode()], object),
        }


def make_inputs(prompt, limit, temperature=0.0, seed=5):
    return {
        "text": np.array([prompt], object),
        "max_new_tokens": np.array([limit], np.int32),
        "temperature": np.array([temperature], np.float32),
        "seed": np.array([seed], np.int64),
        "stop": np.array([[b"unused"]], object),
    }


def collect_chunks(toy, inputs, stops=(), **options):
    model = TextModel(toy, {}, toy.max_rows)

    async def collect():
        return [chunk async for chunk in stream(model, inputs, list(stops), **options)]

    return asyncio.run(collect())


PROMPTS = st.sampled_from([b"a", b"ab ba", "é你".encode(), b"b\xff", b" ", "ab 😀".encode()])
STOP = st.sampled_from([b"ab", b"ba ", b"abab", b"b", "你".encode(), b"aba", b"\xbd"])
STOPS = st.lists(STOP, max_size=3)


@settings(max_examples=150, deadline=None)
@given(PROMPTS, STOPS, st.integers(1, 60), st.integers(1, 9), st.sampled_from([0, 8, 40]))
def test_a_greedy_stream_is_the_text_of_one_request(prompt, stops, limit, size, ends):
    toy = ToyModel(ends)
    ids, text, reason = toy.generate(prompt, limit, stops)
    found = collect_chunks(toy, make_inputs(prompt, limit), stops, chunk_tokens=size)
    assert "".join(chunk.text for chunk in found) == text.decode("utf-8", "replace")
    assert [chunk.finish_reason for chunk in found] == [None] * (len(found) - 1) + [reason]
    assert all(chunk.text for chunk in found[:-1])
    if reason != "stop":  # else later tokens of the same call count
        assert found[-1].num_tokens == len(ids)


@settings(max_examples=60, deadline=None)
@given(PROMPTS, st.integers(1, 60), st.integers(1, 9))
def test_a_sampled_stream_repeats_and_without_commits_is_the_text_of_one_request(
    prompt, limit, size
):
    toy, inputs = ToyModel(8), make_inputs(prompt, limit, temperature=1.0)
    assert collect_chunks(toy, inputs, chunk_tokens=size) == collect_chunks(
        toy, inputs, chunk_tokens=size
    )
    _, text, _ = toy.generate(prompt, limit, seed=5, sampled=True)
    found = collect_chunks(toy, inputs, chunk_tokens=size, commit=False)
    assert "".join(chunk.text for chunk in found) == text.decode("utf-8", "replace")


def test_a_stop_string_that_only_the_model_sees():
    """A special token, `<s>`, ends the text and is no part of it."""

    class Special(ToyModel):
        def generate(self, prompt, limit, stops=(), seed=0, sampled=False):
            left = 6 - len(prompt)  # so many letters, then the special token, which has no text
            new = [*[1] * left, END][:limit]
            stopped = END in new and b"<s>" in stops
            return new, b"a" * min(left, limit), "stop" if stopped else "length"

        async def __call__(self, signature, inputs):
            outputs = await super().__call__(signature, inputs)
            if signature == "generate":
                letters = int((outputs["token_ids"][0, : outputs["num_tokens"][0]] == 1).sum())
                outputs["text_bytes"] = np.array([b"a" * letters], object)
            return outputs

    found = collect_chunks(Special(0), make_inputs(b"b", 50), [b"zz", b"<s>"], chunk_tokens=2)
    assert "".join(chunk.text for chunk in found) == "aaaaa"
    assert found[-1].finish_reason == "stop" and found[-1].num_tokens == 6


def test_no_token_is_a_stop_for_openai():
    assert openai_finish_reason("no_token") == "stop" == openai_finish_reason("eos")


def test_chunks_are_sent_while_the_text_is_generated():
    class Letters(ToyModel):
        def next(self, ids, seed, step, sampled):
            return (
                1 + len(ids) % 2
            )  # a and b in turn, which are tokenized as one token: never committed

    found = collect_chunks(Letters(0), make_inputs(b" ", 50), chunk_tokens=4)
    assert len(found) > 3 and "".join(chunk.text for chunk in found) == "ba" * 25
    committed = ToyModel(0)
    committed.next = lambda ids, seed, step, sampled: VOCABULARY.index(b" ")
    found = collect_chunks(committed, make_inputs(b"a", 40), chunk_tokens=4)
    assert [chunk.text for chunk in found] == ["    "] * 10


@pytest.mark.parametrize("stop", [b"      ", b"  a"])
def test_a_possible_start_of_a_stop_string_is_held_back(stop):
    toy = ToyModel(0)
    toy.next = lambda ids, seed, step, sampled: VOCABULARY.index(b" ")
    found = collect_chunks(toy, make_inputs(b"a", 12), [stop], chunk_tokens=2)
    text = "".join(chunk.text for chunk in found)
    assert text == ("" if stop == b"      " else " " * 12)
    assert found[-1].finish_reason == ("stop" if stop == b"      " else "length")
