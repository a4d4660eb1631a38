"""Draft tokens change the time a sequence takes and not the sequence: lookup and draft model."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tfgpt2
from tfgpt2.generation.compiled import CompiledDecoder
from tfgpt2.generation.from_config import decode_spec
from tfgpt2.generation.generate import merge_config, request_params
from tfgpt2.generation.inputs import check_inputs, right_aligned_prompt
from tfgpt2.generation.logits.base import ProcessorContext
from tfgpt2.generation.speculative.prompt_lookup import last_match
from tfgpt2.models import causal_lm

RANDOM = np.random.RandomState(3)
LENGTHS = (9, 2, 5, 7)
WIDTH = max(LENGTHS)
MASK = (np.arange(WIDTH) >= WIDTH - np.array(LENGTHS)[:, None]).astype(int)
IDS = RANDOM.randint(0, 23, (4, WIDTH)) * MASK
FREE = {"attention_mask": MASK, "pad_token_id": 0, "eos_token_id": None, "jit_compile": False,
        "return_dict_in_generate": True}  # fmt: skip
LONG = FREE | {"max_new_tokens": 36}


def assert_same_generation(found, expected):
    """All that a text is, except how long it took."""
    np.testing.assert_array_equal(found.sequences, expected.sequences)
    np.testing.assert_array_equal(found.num_tokens, expected.num_tokens)
    np.testing.assert_allclose(found.token_logprobs, expected.token_logprobs, atol=1e-4)
    assert found.finish_reason == expected.finish_reason


def run(model, config, ids, mask, assistant=None):
    """What the loop makes, with how often the model was asked."""
    config = merge_config(model, None, config)
    inputs = check_inputs(model, config, ids, attention_mask=mask)
    spec = decode_spec(config, 23, assisted=assistant is not None)
    params, buffer = request_params(model, config, spec, inputs, None)
    decoder = CompiledDecoder(model, jit_compile=False, assistant=assistant)
    return decoder.run(spec, right_aligned_prompt(inputs, 48), params, buffer)


def steps(*arguments):
    return int(run(*arguments).steps)


def speculative_options(build, how):
    """Arguments that make a call use draft tokens."""
    if how == "lookup":
        return {"prompt_lookup_num_tokens": 4, "max_matching_ngram_size": 2}
    seed = 0 if how == "itself" else 17
    return {"assistant_model": build(seed=seed), "num_assistant_tokens": 3}


@pytest.fixture(scope="module")
def plain(model):
    """Texts made one token at a time."""
    return {
        "greedy": model.generate(IDS, **LONG),
        "sampled": model.generate(IDS, **LONG, do_sample=True, temperature=0.7, seed=4),
    }


@pytest.mark.parametrize(
    "how",
    ["lookup", *(pytest.param(how, marks=pytest.mark.long) for how in ("stranger", "itself"))],
)
def test_texts_are_those_without_speculative_options(build, model, plain, how):
    """Rows that agree with their draft tokens at different times.

    A draft model of other weights is nearly always wrong.
    """
    draft_options = speculative_options(build, how)
    assert_same_generation(model.generate(IDS, **LONG, **draft_options), plain["greedy"])


@pytest.mark.long
@pytest.mark.parametrize("how", ["lookup", "stranger", "itself"])
def test_drawn_texts_are_those_without_speculative_options(build, model, plain, how):
    options = LONG | {"do_sample": True, "temperature": 0.7, "seed": 4}
    options |= speculative_options(build, how)
    assert_same_generation(model.generate(IDS, **options), plain["sampled"])


@pytest.mark.long
@pytest.mark.parametrize("how", ["lookup", "stranger", "itself"])
def test_compiled_texts_are_those_without_speculative_options(build, model, plain, how):
    compiled = LONG | {"jit_compile": True} | speculative_options(build, how)
    assert_same_generation(model.generate(IDS, **compiled), plain["greedy"])
    sampled = {"do_sample": True, "temperature": 0.7, "seed": 4}
    assert_same_generation(model.generate(IDS, **compiled, **sampled), plain["sampled"])


@pytest.mark.long
def test_holes_are_closed(build, model, monkeypatch):
    """Rows that are guessed right run ahead, until the others' holes fill the cache.

    The draft model is the model itself but knows no penalties: it is right for half of the rows.
    """
    closed, real = tf.Variable(0), causal_lm.compact

    def noted(cache):
        closed.assign_add(1)
        return real(cache)

    monkeypatch.setattr(causal_lm, "compact", noted)
    options = {"max_new_tokens": 32, "repetition_penalty": [1.0, 30.0, 1.0, 30.0]}
    expected = model.generate(IDS, **(FREE | options))
    config = options | {"eos_token_id": None, "num_assistant_tokens": 3}
    result = run(model, config, IDS, MASK, build(seed=0))
    np.testing.assert_array_equal(result.tokens[:, :32], expected.sequences[:, WIDTH:])
    assert int(closed) > 0 and int(result.steps) > 1 + 31 // 4 + 1  # as rows always right need


@pytest.mark.long
def test_rounds_without_a_draft(model):
    """A text whose tokens are new has nothing to look up: those rounds read one token."""
    free = {"eos_token_id": None, "jit_compile": False, "max_new_tokens": 30, "do_sample": True,
            "temperature": 1.5, "seed": 8}  # fmt: skip
    expected = model.generate([[5]], **free).numpy()
    assert len(set(expected[0, :6].tolist())) == 6
    found = model.generate([[5]], **free, prompt_lookup_num_tokens=4)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.long
def test_a_model_that_drafts_for_itself_is_called_seldom(build, model):
    config = {"max_new_tokens": 36, "eos_token_id": None, "num_assistant_tokens": 3}
    assert steps(model, config, IDS, MASK) == 36
    assert steps(model, config, IDS, MASK, build(seed=0)) == 1 + -(-35 // 4)  # four at a time
    sampled = config | {"do_sample": True, "temperature": 0.7, "seed": 4}
    assert steps(model, sampled, IDS, MASK, build(seed=0)) <= 1 + -(-35 // 4) + 2


@pytest.mark.long
def test_repetition_is_found(model):
    """A text that a penalty below 1 makes repeat itself takes fewer steps than tokens."""
    config = {"max_new_tokens": 36, "eos_token_id": None, "repetition_penalty": 0.3,
              "prompt_lookup_num_tokens": 4}  # fmt: skip
    assert steps(model, config, IDS[:1], MASK[:1]) < 30


OPTIONS = {
    "ends": {"eos_token_id": [4, 11, 20], "max_new_tokens": 30},
    "limits": {"max_new_tokens": [3, 36, 0, 11]},
    "penalties": {"max_new_tokens": 24, "repetition_penalty": [1.0, 1.5, 0.6, 1.2],
                  "no_repeat_ngram_size": [2, 0, 3, 0], "min_new_tokens": [0, 9, 0, 20],
                  "eos_token_id": [4, 11, 20]},
    "n-best": {"max_new_tokens": 12, "do_sample": True, "seed": 3, "num_return_sequences": 2,
               "best_of": 3},
    "guidance": {"max_new_tokens": 12, "guidance_scale": 1.7},
    "uncached": {"max_new_tokens": 12, "use_cache": False},
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("how", ["lookup", "stranger", "itself"])
def test_options_hold_with_speculative_options(build, model, how, name):
    options = FREE | OPTIONS[name]
    assert_same_generation(
        model.generate(IDS, **options, **speculative_options(build, how)),
        model.generate(IDS, **options),
    )


@pytest.mark.long
@pytest.mark.parametrize("how", ["lookup", "itself"])
def test_stop_strings_end_in_the_middle_of_speculative_options(build, model, plain, how):
    letters = tfgpt2.TFGPT2Tokenizer({chr(97 + i): i for i in range(23)}, [])
    new = plain["greedy"].sequences.numpy()[:, WIDTH:]
    stops = ["".join(chr(97 + i) for i in row[5:8]) for row in new]
    options = LONG | {"stop_strings": stops, "tokenizer": letters}
    expected = model.generate(IDS, **options)
    assert set(expected.finish_reason) == {"stop"}
    assert_same_generation(
        model.generate(IDS, **options, **speculative_options(build, how)), expected
    )


@pytest.mark.long
def test_each_row_alone_gives_the_same(build, model, plain):
    """No row's text depends on what the others guessed right."""
    options = LONG | speculative_options(build, "lookup")
    for row in (0, 2):
        one = options | {"attention_mask": MASK[row : row + 1]}
        found = model.generate(IDS[row : row + 1], **one).sequences.numpy()
        np.testing.assert_array_equal(found[0], plain["greedy"].sequences[row])


def matched(text, longest):
    """The plain twin: where the longest end of a text ended before, the last such place."""
    for length in range(longest, 0, -1):
        for end in range(len(text) - 2, length - 2, -1):
            if text[end - length + 1 : end + 1] == text[len(text) - length :]:
                return end
    return None


@pytest.mark.long
@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.data())
def test_last_match_equals_a_plain_search(data):
    rows, prompt = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    room, longest = data.draw(st.integers(0, 6)), data.draw(st.integers(1, 4))
    texts = []
    ids, mask = np.zeros([2, rows, prompt + room], np.int32)
    counts = []
    for row in range(rows):
        length, count = data.draw(st.integers(1, prompt)), data.draw(st.integers(0, room))
        size = length + count
        text = data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
        ids[row, prompt - length : prompt + count] = text
        mask[row, prompt - length : prompt + count] = 1
        texts.append((text, prompt - length))
        counts.append(count)
    context = ProcessorContext(tf.constant(ids), tf.constant(mask > 0), tf.constant(prompt),
                               tf.constant(counts), (), ())  # fmt: skip
    place, found = last_match(context, longest)
    for row, (text, padding) in enumerate(texts):
        expected = matched(text, longest)
        assert bool(found[row]) == (expected is not None)
        if expected is not None:
            assert int(place[row]) == expected + padding


@pytest.mark.long
@pytest.mark.parametrize("how", ["lookup", "draft"])
def test_two_hundred_prompts_of_a_trained_model(shared_data, how):
    """Greedy texts of the bundled model, looked up or guessed by its own first layer."""
    model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    text = (shared_data / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    starts = np.random.RandomState(0).randint(0, len(text) - 400, 200)
    prompts = [text[start : start + 40 + 2 * (i % 100)] for i, start in enumerate(starts)]
    draft_options = {"prompt_lookup_num_tokens": 6}
    if how == "draft":
        config = tfgpt2.GPT2Config.from_dict(model.config.to_dict() | {"n_layer": 1})
        draft = tfgpt2.TFGPT2LMHeadModel(config)
        draft(tf.constant([[1]]))
        taken = {one.path.split("/", 1)[1]: one for one in model.weights}
        for weight in draft.weights:  # the first layer of the model itself: often right
            weight.assign(taken[weight.path.split("/", 1)[1]])
        draft_options = {"assistant_model": draft, "num_assistant_tokens": 4}
    for first in range(0, 200, 25):
        given_ids = tokenizer(prompts[first : first + 25])
        options = {"max_new_tokens": 48, "eos_token_id": None, "do_sample": False}
        expected = model.generate(given_ids, **options).numpy()
        np.testing.assert_array_equal(
            model.generate(given_ids, **options, **draft_options), expected
        )
