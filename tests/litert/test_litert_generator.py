"""`LiteRTGenerator` against `TextGenerator`: the same tokens in float32."""

import numpy as np
import pytest

PROMPTS = ["the her\n\n", "é 😀 t", ""]


def assert_same(live, loaded, prompts, **options):
    expected = live.generate(prompts, details=True, **options)
    found = loaded.generate(prompts, details=True, **options)
    for one, other in zip(expected, found, strict=True):
        assert other.token_ids == one.token_ids
        assert other.text == one.text and other.text_bytes == one.text_bytes
        assert other.finish_reason == one.finish_reason
        assert (other.prompt_tokens, other.truncated) == (one.prompt_tokens, one.truncated)
        np.testing.assert_allclose(other.token_logprobs, one.token_logprobs, atol=1e-3)
        assert other.logprob == pytest.approx(one.logprob, abs=1e-2)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0.8, "seed": 3},
        {
            "temperature": [0, 1.3, 0.7],
            "top_k": [0, 7, 0],
            "top_p": [1, 0.9, 0.6],
            "seed": [1, 2, 3],
        },
        {"temperature": 1.0, "min_p": 0.1, "repetition_penalty": [1.0, 1.5, 0.8], "seed": 9},
        {"do_sample": True, "seed": 4, "min_new_tokens": [0, 12, 20]},
    ],
    ids=str,
)
def test_tokens_are_those_of_text_generator(live, loaded, options):
    """Two rows at a time and three prompts of different lengths, the empty one included."""
    assert_same(live, loaded, PROMPTS, max_new_tokens=[20, 9, 14], **options)
