"""Log-probabilities of an export with a prefix: they follow it, as the generated tokens do."""

import asyncio

import httpx
import numpy as np
import pytest

from tests.support.server_requests import MODEL
from tfgpt2.serving.server.completion_choice import Choice
from tfgpt2.serving.server.completion_inputs import PromptInput
from tfgpt2.serving.server.token_logprobs import completion_logprobs

PREFIX, PROMPT = "KING RICHARD III:\nNow is the winter", " of our"


class FakeModel:
    """Reads the prompt "ab" and the token "c", after a prefix or at the beginning of a text."""

    def __init__(self, first_rank):
        self.ranks = np.array([[first_rank, 2, 1]], np.int32)

    def require(self, signature, field):
        pass

    async def tokenize(self, text):
        return [97, 98]

    async def inspect_ids(self, ids):
        assert ids == [97, 98, 99]
        follows = self.ranks > 0
        return {
            "token_bytes": np.array([[b"a", b"b", b"c"]], object),
            "text_sizes": np.ones([1, 3], np.int32),
            "token_logprobs": np.where(follows, np.float32([[-1, -2, -3]]), 0),
            "ranks": self.ranks,
            "top_bytes": np.array([[[b"x"], [b"y"], [b"c"]]], object),
            "top_logprobs": np.float32([[[-0.5], [-1.5], [-3]]]),
        }


@pytest.mark.parametrize("first_rank", [0, 7])
def test_the_first_token_has_values_where_something_precedes_it(first_rank):
    choice = Choice(PromptInput(b"ab"), "c", b"c", np.array([99]), np.float32([-3]),
                    2, 0, "length")  # fmt: skip
    asked = completion_logprobs(FakeModel(first_rank), choice, alternatives=1, echo=True)
    found = asyncio.run(asked)
    assert found["token_logprobs"] == [-1.0 if first_rank else None, -2.0, -3.0]
    first = {"x": -0.5, "a": -1.0} if first_rank else None
    assert found["top_logprobs"] == [first, {"y": -1.5, "b": -2.0}, {"c": -3.0}]


@pytest.mark.long
def test_echo_and_alternatives_are_those_of_the_whole_text(exported, start_server, tmp_path):
    """The same tokens after a prefix of the export, and after its tokens in the prompt."""
    import tfgpt2

    generator = tfgpt2.TextGenerator.from_pretrained(MODEL, prefix=PREFIX)
    generator.export(tmp_path / MODEL / "1", jit_compile=False, check=False)
    before, after = (generator.tokenizer.tokenize(x).numpy().tolist() for x in (PREFIX, PROMPT))
    found = ask(start_server(tmp_path / MODEL), [PROMPT, "", after])
    whole = ask(start_server(exported), [before + after, before, before + after])
    for one, other in zip(found, whole, strict=True):
        assert one["tokens"] == other["tokens"][len(before) :]
        values = other["token_logprobs"][len(before) :]
        assert one["token_logprobs"] == pytest.approx(values, abs=1e-4)
        tops = zip(one["top_logprobs"], other["top_logprobs"][len(before) :], strict=True)
        assert all(top == pytest.approx(expected, abs=1e-4) for top, expected in tops)


def ask(server, prompts):
    options = {"model": MODEL, "max_tokens": 8, "temperature": 0, "logprobs": 5, "echo": True}
    with httpx.Client(base_url=server.url, timeout=120) as http:
        answers = [http.post("/v1/completions", json=options | {"prompt": one}) for one in prompts]
    server.kill()
    return [answer.json()["choices"][0]["logprobs"] for answer in answers]
