"""`TextGenerator.generate` and `scores`: strings in, strings and records out."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy_text
from tfgpt2 import GenerationConfig, TextGenerator


@pytest.fixture(scope="module")
def without_bos(gen):
    """The same model without a start token for empty prompts."""
    tokens = toy_text.tokenizer()
    model = toy_text.model(tokens)
    model.config.bos_token_id = model.config.eos_token_id = None
    return TextGenerator(model, tokens, GenerationConfig(max_new_tokens=5), jit_compile=False)


SAMPLE = {"max_new_tokens": 10, "temperature": 1.0, "seed": 3}


def test_types_of_prompts(gen):
    text = gen.generate("abc", **SAMPLE)
    assert isinstance(text, str) and text
    assert gen.generate(["abc"], **SAMPLE) == [text] == gen.generate(("abc",), **SAMPLE)
    assert gen.generate(b"abc", **SAMPLE) == text == gen.generate(np.array(["abc"]), **SAMPLE)[0]
    assert gen.generate(tf.constant(["abc"]), **SAMPLE) == [text]
    assert gen.generate([], **SAMPLE) == [] == gen.generate([], details=True, seed=[])
    assert gen.generate("abc", details=True, **SAMPLE).text == text


def test_details(gen):
    records = gen.generate(["abc", "hello there"], details=True, max_new_tokens=[4, 9], seed=5,
                           temperature=[0.0, 1.0])  # fmt: skip
    for record, size, prompt_size in zip(records, (4, 9), (3, 8), strict=True):
        assert len(record.token_ids) == len(record.token_logprobs) == size
        assert (record.finish_reason, record.truncated) == ("length", 0)
        assert record.prompt_tokens == prompt_size
        assert record.logprob == pytest.approx(sum(record.token_logprobs), rel=1e-5)
        assert record.text == record.text_bytes.decode("utf-8", "replace")
        decoded = gen.tokenizer.detokenize_bytes([record.token_ids]).numpy()[0]
        assert record.text_bytes == decoded
        ids = gen.tokenizer("abc" if prompt_size == 3 else "hello there")["input_ids"][0].numpy()
        full_ids = np.concatenate([ids, record.token_ids])[None]
        logits = gen.model(full_ids).logits.numpy()[0, prompt_size - 1 : -1].astype(float)
        expected = logits[np.arange(size), record.token_ids] - np.log(np.exp(logits).sum(-1))
        np.testing.assert_allclose(record.token_logprobs, expected, atol=1e-4)
    assert {field.name for field in dataclasses.fields(records[0])} == {
        "text", "text_bytes", "token_ids", "prompt_tokens", "truncated", "logprob",
        "token_logprobs", "finish_reason", "score", "top_logprobs", "tokens",
    }  # fmt: skip
    assert b"".join(records[0].tokens) == records[0].text_bytes
    assert records[0].score is records[0].top_logprobs is None


def test_rows_are_independent(gen):
    prompts = ["a", "the longest of them all", "é", "", "\n\n"]
    options = {"temperature": [0, 1, 0.5, 1, 1], "top_k": [0, 9, 0, 0, 3], "seed": [1, 2, 3, 4, 5],
               "top_p": [1, 1, 0.9, 1, 1], "repetition_penalty": [1, 1.5, 1, 1, 1],
               "max_new_tokens": [9, 5, 12, 0, 17], "stop": [[], ["e"], [], [], ["a"]]}  # fmt: skip
    batched = gen.generate(prompts, details=True, **options)
    for row, prompt in enumerate(prompts):
        of_row = {name: value[row : row + 1] for name, value in options.items()}
        alone = gen.generate([prompt], details=True, **of_row)[0]
        exact = dataclasses.replace(alone, logprob=0.0, token_logprobs=[])
        assert exact == dataclasses.replace(batched[row], logprob=0.0, token_logprobs=[])
        np.testing.assert_allclose(alone.token_logprobs, batched[row].token_logprobs, atol=1e-4)


@pytest.mark.long
def test_compiled_and_uncompiled_texts_are_equal(gen, compiled):
    prompts = ["the cat", "é", "x" * 20, ""]
    options = {"temperature": [0, 1, 0.7, 1], "seed": 9, "top_k": [0, 0, 20, 5], "stop": "e",
               "max_new_tokens": 16}  # fmt: skip
    assert compiled.generate(prompts, **options) == gen.generate(prompts, **options)
    prompts = [prompt + "!" for prompt in prompts]
    options |= {"seed": [5, 6, 7, 8], "top_p": 0.8, "max_new_tokens": [3, 16, 9, 1]}
    assert compiled.generate(prompts, **options) == gen.generate(prompts, **options)


def test_seeds(gen):
    options = {"max_new_tokens": 12, "temperature": 1.0}
    texts = gen.generate(["abc"] * 4, seed=7, **options)
    assert len(set(texts)) == 4
    assert texts == [gen.generate("abc", seed=7 + i, **options) for i in range(4)]
    assert gen.generate(["abc"] * 2, seed=[7, 7], **options) == [texts[0]] * 2
    assert gen.generate(["abc"] * 2, seed=np.array([8, 7]), **options) == [texts[1], texts[0]]
    random_texts = [text for seed in (None, -1, [-1, -1]) for text in
             gen.generate(["abc"] * 2, seed=seed, **options)]  # fmt: skip
    assert len(set(random_texts)) == 6
    assert gen.generate("abc", seed=2**63 - 1, **options) != gen.generate(
        "abc", seed=2**62, **options
    )


@pytest.mark.long
def test_random_seeds_ignore_the_global_seed(gen):
    text, texts = tf.constant(["abc"]), set()
    config = GenerationConfig(do_sample=True, max_new_tokens=12)
    for _ in range(2):
        tf.random.set_seed(1)
        new = TextGenerator(gen.model, gen.tokenizer, config, jit_compile=False)
        texts.add(new(text).numpy()[0])
    assert len(texts) == 2


@pytest.mark.parametrize("text", [
    b"\xff\xfe", b"a\x00b", "\0", "\ud83d", "\ud83d\ude00", "a\ud800b", "😀é", "\u200b\ufeff", " ",
    "\n", b"\xf0\x9f\x98", "<|endoftext|>", "\U0010ffff",
])  # fmt: skip
def test_invalid_unicode_and_special_characters_in_prompts(gen, text):
    out = gen.generate([text], details=True, max_new_tokens=3)[0]
    assert len(out.token_ids) <= 3 and out.prompt_tokens >= 1
    encoded = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    decoded = encoded.decode("utf-8", "replace")
    ids = gen.tokenizer(decoded)["input_ids"]
    assert out.prompt_tokens == ids.shape[1]
    assert out == gen.generate([decoded], details=True, max_new_tokens=3)[0]


@pytest.mark.long
def test_empty_prompt_becomes_the_start_token(gen, without_bos):
    empty = gen.generate("", details=True, max_new_tokens=5)
    assert empty.prompt_tokens == 1
    assert empty == gen.generate("<|endoftext|>", details=True, max_new_tokens=5)
    message = "(?s)prompt is empty.*no start token.*prompt_number=1.*Give"
    with pytest.raises(ValueError, match=message):
        without_bos.generate(["a", ""])
    assert without_bos.generate(["a"])[0]


def test_start_token_outside_of_the_vocabulary_is_ignored(gen):
    model = toy_text.model(toy_text.tokenizer())
    model.config.bos_token_id = 50256
    other = TextGenerator(model, gen.tokenizer, GenerationConfig(bos_token_id=50256))
    with pytest.raises(ValueError, match="no start token"):
        other.generate("")


@pytest.mark.long
def test_long_prompts_raise_or_are_truncated(gen):
    for size in (64, 65, 1000):
        with pytest.raises(ValueError, match=r"(?s)no room in the model's context of 64.*number"
                           r"=1.*truncate_left"):  # fmt: skip
            gen.generate(["ab", "a" * size])
    longest = gen.generate("a" * 63, details=True, max_new_tokens=9, stop=[])
    assert (longest.prompt_tokens, len(longest.token_ids), longest.finish_reason) == (
        63,
        1,
        "length",
    )
    options = {"on_long_prompt": "truncate_left", "jit_compile": False}
    truncating = TextGenerator(gen.model, gen.tokenizer, **options)
    text = "0123456789" * 20
    for new, kept in ((9, 55), (0, 63), (1000, 32), (32, 32), (1, 63)):
        out = truncating.generate(["ab", text], details=True, max_new_tokens=new)
        assert [record.truncated for record in out] == [0, 200 - kept]
        assert out[1].prompt_tokens == kept
        expected = truncating.generate(
            text[-kept:], details=True, max_new_tokens=min(new, 64 - kept)
        )
        assert out[1].token_ids == expected.token_ids


@pytest.mark.long
def test_prompts_beyond_the_largest_bucket_are_too_long(gen):
    options = {"prompt_buckets": [8, 16], "jit_compile": False}
    small = TextGenerator(gen.model, gen.tokenizer, **options)
    with pytest.raises(ValueError, match="leaves no room"):
        small.generate("a" * 17)
    options["on_long_prompt"] = "truncate_left"
    truncating = TextGenerator(gen.model, gen.tokenizer, **options)
    out = truncating.generate("b" + "a" * 16, details=True, max_new_tokens=3)
    assert (out.prompt_tokens, out.truncated) == (16, 1)
    assert out.token_ids == small.generate("a" * 16, details=True, max_new_tokens=3).token_ids
    short = TextGenerator(gen.model, gen.tokenizer, output_buckets=[4], jit_compile=False)
    assert len(short.generate("a", details=True, max_new_tokens=30).token_ids) == 4


@pytest.mark.long
def test_end_tokens_stop_and_are_not_text(gen):
    first = gen.generate("abc", details=True, max_new_tokens=6)
    config = GenerationConfig(eos_token_id=[first.token_ids[2], 5], max_new_tokens=6)
    stopping = TextGenerator(gen.model, gen.tokenizer, config, jit_compile=False)
    out = stopping.generate("abc", details=True)
    end = first.token_ids.index(first.token_ids[2]) + 1
    assert out.finish_reason == "eos" and out.token_ids == first.token_ids[:end]
    later = stopping.generate("abc", details=True, min_new_tokens=end, max_new_tokens=end)
    assert later.finish_reason == "length" and config.eos_ids[0] not in later.token_ids
    model = toy_text.model(gen.tokenizer)
    model.generation_config = GenerationConfig(eos_token_id=gen.tokenizer.eos_token_id)
    bias = np.zeros(24)
    model.transformer.ln_f.weight.assign(np.zeros(24))
    bias[:] = model.transformer.wte.weight.numpy()[gen.tokenizer.eos_token_id] * 50
    model.transformer.ln_f.bias.assign(bias)
    out = TextGenerator(model, gen.tokenizer, jit_compile=False).generate("abc", details=True)
    assert (out.text, out.token_ids, out.finish_reason) == ("", [gen.tokenizer.eos_token_id], "eos")


def test_scores_equal_the_models_log_probabilities(gen):
    texts = ["hello there", "a", "", "é😀 the", "x" * 200]
    out = {name: value.numpy() for name, value in gen.pipeline.score(tf.constant(texts)).items()}
    for row, text in enumerate(texts):
        ids = gen.tokenizer.tokenize(text).numpy()[-64:]
        scored = max(len(ids) - 1, 0)
        assert out["num_tokens"][row] == scored
        assert out["truncated"][row] == max(0, len(gen.tokenizer.tokenize(text)) - 64)
        if not scored:
            assert out["logprob"][row] == 0 and out["perplexity"][row] == 1
            continue
        logits = gen.model(ids[None]).logits.numpy()[0, :-1].astype(float)
        expected = logits[np.arange(scored), ids[1:]] - np.log(np.exp(logits).sum(-1))
        np.testing.assert_allclose(out["token_logprobs"][row, 1 : scored + 1], expected, atol=1e-4)
        assert out["token_logprobs"][row, 0] == 0 == out["token_logprobs"][row, scored + 1 :].sum()
        np.testing.assert_allclose(out["logprob"][row], expected.sum(), rtol=1e-4)
        np.testing.assert_allclose(out["perplexity"][row], np.exp(-expected.mean()), rtol=1e-4)
    assert gen.pipeline.score(tf.constant([], tf.string))["token_logprobs"].shape[0] == 0
