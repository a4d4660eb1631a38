"""A tokenizer with more ids than the model: a warning, and texts with those ids are refused."""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2 import TextGenerator


@pytest.fixture(scope="module")
def larger(gen):
    """The generator with tokens that its model does not have."""
    tokenizer = type(gen.tokenizer)(
        gen.tokenizer.spec.vocab,
        gen.tokenizer.spec.merges,
        pad_token="<pad>",
        additional_special_tokens=["<a>", "<b>", "<c>", "<new>"],
    )
    assert tokenizer.vocab_size > gen.model.config.vocab_size
    with pytest.warns(UserWarning, match="texts with the tokens above are refused"):
        return TextGenerator(gen.model, tokenizer, jit_compile=False)


@pytest.mark.long
def test_other_texts_are_as_before(gen, larger):
    options = {"max_new_tokens": 8, "temperature": 0.9, "seed": 3}
    assert larger.generate(["a b", "the"], **options) == gen.generate(["a b", "the"], **options)


def test_texts_with_such_tokens_are_refused(larger):
    for text in ("<new>", "a <new> b"):
        with pytest.raises(ValueError, match="no embedding for.*prompt_number=1.*Leave it out"):
            larger.generate(["a", text], max_new_tokens=2)
        with pytest.raises(ValueError, match="no embedding for"):
            next(larger.stream(text))
    with pytest.raises(ValueError, match="`negative_prompt` has a token"):
        larger.generate("a", negative_prompt="<new>", guidance_scale=1.5, max_new_tokens=2)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="`prefix` has a token"):
        TextGenerator(larger.model, larger.tokenizer, prefix="a <new>", jit_compile=False)


@pytest.mark.long
def test_in_a_graph_the_row_is_marked(larger):
    values = {
        name: tf.fill([2], tf.constant(value))
        for name, value in larger.generation_config.request_values().items()
    }
    out = larger.pipeline(
        tf.constant(["a<new>", "a"]),
        values | {"max_new_tokens": tf.constant([3, 3])},
        tf.constant([[""], [""]]),
    )
    assert out["finish_reason"].numpy().tolist()[0] == b"unknown_token"
    assert out["num_tokens"].numpy()[0] == 0 and out["text"].numpy()[0] == b""
    assert out["finish_reason"].numpy().tolist()[1] != b"unknown_token"
    score = larger.pipeline.score(tf.constant(["a<new>", "ab"]))
    assert score["num_tokens"].numpy()[0] == 0 and np.isfinite(score["perplexity"].numpy()).all()
