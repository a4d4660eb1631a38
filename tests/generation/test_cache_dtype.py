"""`cache_dtype`: XLA's blockwise reading of 16-bit caches against TensorFlow's plain one."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy_text
from tfgpt2 import TextGenerator, TFGPT2LMHeadModel
from tfgpt2.nn.attention import attend, decode_attend
from tfgpt2.nn.kv_cache import CACHE_DTYPES, pack, stored_dtype

PROMPTS = np.array([[5, 6, 7, 8, 5, 6], [0, 0, 9, 4, 9, 4], [0, 8, 1, 2, 3, 8]])
MASK = np.array([[1] * 6, [0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
# What moves rows and columns of a cache in another way each.
STRATEGIES = {
    "greedy": {"do_sample": False},
    "sequences": {"do_sample": True, "num_return_sequences": 2, "seed": 1},
    "beams": {"num_beams": 3},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "lookup": {"do_sample": False, "prompt_lookup_num_tokens": 3},
    "guidance": {"do_sample": False, "guidance_scale": 1.5},
}
# A key halfway between two numbers of 16 bits may be rounded to either, by programs that add up in
# another order. Seen: 3.4e-4 in bfloat16 (guidance), else below 6e-6.
LIMIT = {"float32": 5e-5, "bfloat16": 1e-3, "float16": 2e-4}
UNIT_ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11}


@pytest.fixture(scope="module")
def model():
    return toy_text.model(toy_text.tokenizer())


def generate(model, **options):
    return model.generate(
        PROMPTS, attention_mask=MASK, max_new_tokens=16, eos_token_id=None,
        return_dict_in_generate=True, **options,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("greedy", "beams") else pytest.param(name, marks=pytest.mark.long)
        for name in STRATEGIES
    ],
)
def test_every_strategy_finds_what_it_finds_without_xla(model, name, dtype):
    options = STRATEGIES[name] | {"cache_dtype": dtype}
    found = generate(model, **options)
    expected = generate(model, jit_compile=False, **options)
    np.testing.assert_array_equal(found.sequences, expected.sequences)
    difference = np.abs(found.token_logprobs - expected.token_logprobs).max()
    assert difference < LIMIT[dtype]
    if dtype == "float32":
        plain = generate(model, **STRATEGIES[name])
        np.testing.assert_array_equal(found.sequences, plain.sequences)
        np.testing.assert_array_equal(found.token_logprobs, plain.token_logprobs)


@pytest.mark.long
@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_the_draft_model_has_such_a_cache_too(model, dtype):
    options = {"do_sample": False, "cache_dtype": dtype}
    found = generate(model, assistant_model=model, **options)
    np.testing.assert_array_equal(found.sequences, generate(model, **options).sequences)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_changes_attention_no_more_than_it_can(dtype):
    """The bound: how far rounding moves the scores, hence the weights, and the values.

    Numbers that are rounded have a relative error of at most the unit roundoff `u`. A score then
    moves by at most `d = u * scale * sum |q k|`, its weight by a factor within `exp(+-2 d)`, and a
    mean of values by at most `(exp(2 d) - 1) * max |v| + u * exp(2 d) * max |v|`.
    """
    random = np.random.RandomState(0)
    query, key, value = (
        tf.constant(random.standard_normal([4, 2, n, 16]), tf.float32) for n in (1, 300, 300)
    )
    mask, scale = tf.ones([4, 1, 1, 300], tf.bool), 0.25
    exact, _ = attend(query, key, value, mask, scale=scale, dropout=lambda x: x)
    kept = (pack(x, dtype) for x in (key, value))
    found = decode_attend(query, *kept, mask, tf.constant([0, 300]), scale=scale)
    u, largest = UNIT_ROUNDOFF[dtype], np.abs(value).max(axis=(2, 3))[..., None, None]
    moved = u * scale * np.abs(query * key).sum(-1).max(-1)[..., None, None]
    bound = (np.exp(2 * moved) - 1 + u * np.exp(2 * moved)) * largest
    difference = np.abs(found - exact)
    assert (difference <= bound + 1e-6).all()
    assert difference.max() > u / 100  # it was rounded


def test_the_generator_keeps_it(model):
    tokens = toy_text.tokenizer()
    generator = TextGenerator(model, tokens, jit_compile=False, cache_dtype="float16")
    again = TextGenerator.from_config(generator.get_config())
    assert again.cache_dtype == again.pipeline.decoder.cache_dtype == "float16"
    plain = TextGenerator(model, tokens, jit_compile=False)
    expected = plain.generate("the er", max_new_tokens=8, temperature=0.0, details=True)
    found = generator.generate("the er", max_new_tokens=8, temperature=0.0, details=True)
    assert len(found.token_ids) == len(expected.token_ids)
    difference = np.subtract(found.token_logprobs, expected.token_logprobs)
    assert np.abs(difference).max() > 0  # another cache


def test_a_bfloat16_model_holds_bits():
    config = toy_text.model(toy_text.tokenizer()).config
    half = TFGPT2LMHeadModel(config, dtype="bfloat16")
    ids = tf.constant(PROMPTS, tf.int32)
    _, cache = half.prefill(ids, tf.constant(MASK, tf.int32), columns=tf.constant(9))
    assert {x.dtype for x in cache.keys + cache.values} == {stored_dtype("bfloat16")}
    assert {x.dtype for x in half.prefix([[1, 2]]).keys} == {tf.bfloat16}


@pytest.mark.parametrize("dtype", ["int8", "f16", 16, "", tf.float16])
def test_other_dtypes_are_refused(model, dtype):
    with pytest.raises(ValueError, match="`cache_dtype` must be one of .*Received: cache_dtype="):
        generate(model, cache_dtype=dtype)
    with pytest.raises(ValueError, match="`cache_dtype` must be one of"):
        TextGenerator(model, toy_text.tokenizer(), cache_dtype=dtype)


def test_a_cache_that_is_not_kept_has_no_dtype(model):
    with pytest.raises(ValueError, match="`use_cache=False` keeps none"):
        generate(model, cache_dtype="bfloat16", use_cache=False)
