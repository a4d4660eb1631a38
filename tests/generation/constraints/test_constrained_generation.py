"""Constrained generation: the output matches with every decoding strategy."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy_text
from tfgpt2 import GenerationConfig, TextGenerator

CHOICES = ["the cat", "hé", "the", "no\n\nmore"]
REGEX = r"[a-c]{2,4}(the |er)+!"
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99},
                   "t": {"enum": ["é", "the"]}},
    "required": ["n", "t"],
    "additionalProperties": False,
}  # fmt: skip
PROMPTS = ["abc", "é the", "the other"]
OFF = {"jit_compile": False, "pad_token_id": 0, "return_dict_in_generate": True}


@pytest.fixture(scope="module")
def gen():
    return toy_text.generator(jit_compile=False)


def generated_texts(gen, out, columns):
    """The text of each row's new tokens."""
    texts = []
    for row, count in zip(out.sequences.numpy(), out.num_tokens.numpy(), strict=True):
        new = row[columns : columns + count][None]
        texts.append(gen.tokenizer.detokenize_bytes(new, skip_special_tokens=True).numpy()[0])
    return [text.decode(errors="replace") for text in texts]


def matches(name, text):
    if name == "choices":
        return text in CHOICES
    if name == "regex":
        return re.fullmatch(REGEX, text) is not None
    value = json.loads(text)
    return set(value) == {"n", "t"} and 0 <= value["n"] <= 99 and value["t"] in ("é", "the")


CONSTRAINTS = {"choices": CHOICES, "regex": REGEX, "json_schema": SCHEMA}
STRATEGIES = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 3.0, "seed": 5},
    "beams": {"num_beams": 3},
    "n-best": {"do_sample": True, "seed": 6, "num_return_sequences": 3},
    "penalized": {"repetition_penalty": 50.0, "no_repeat_ngram_size": 1},
    "lookup": {"prompt_lookup_num_tokens": 4},
}


@pytest.mark.long
@pytest.mark.parametrize("how", STRATEGIES)
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_output_matches(gen, name, how):
    prompts = gen.tokenizer(PROMPTS)
    out = gen.model.generate(
        **prompts, **STRATEGIES[how], **{name: CONSTRAINTS[name]}, tokenizer=gen.tokenizer,
        max_new_tokens=60 if name == "json_schema" else 30, **OFF,
    )  # fmt: skip
    found = generated_texts(gen, out, prompts["input_ids"].shape[1])
    assert all(matches(name, text) for text in found), found
    assert set(out.finish_reason) <= {"eos", "stop", "length"}


@pytest.mark.long
def test_output_without_the_constraint_differs(gen):
    """Log-probabilities are those of the unmasked logits."""
    prompts = gen.tokenizer(PROMPTS)
    options = OFF | {"max_new_tokens": 30, "tokenizer": gen.tokenizer}
    out = gen.model.generate(**prompts, choices=CHOICES, **options)
    columns = prompts["input_ids"].shape[1]
    free = gen.model.generate(**prompts, **options)
    assert not set(generated_texts(gen, free, columns)) & set(CHOICES)
    ids, count = out.sequences.numpy()[0], int(out.num_tokens[0])
    held = prompts["attention_mask"].numpy()[0] > 0
    full = np.concatenate([ids[:columns][held], ids[columns : columns + count]])
    logits = gen.model(full[None]).logits.numpy()[0].astype(float)
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    places = np.arange(held.sum() - 1, len(full) - 1)
    expected = logprobs[places, full[held.sum() :]]
    np.testing.assert_allclose(out.token_logprobs[0, :count], expected, atol=1e-3)


def test_one_constraint_per_row(gen):
    found = gen.generate(PROMPTS, regex=[r"\d{3}", REGEX, None], max_new_tokens=24, details=True)
    assert re.fullmatch(r"\d{3}", found[0].text) and matches("regex", found[1].text)
    free = gen.generate(PROMPTS[2], max_new_tokens=24)
    assert found[2].text == free  # an unconstrained row does not depend on the others
    alone = gen.generate(PROMPTS[1], regex=REGEX, max_new_tokens=24)
    assert found[1].text == alone


@pytest.mark.long
@pytest.mark.parametrize("beams", [1, 3])
def test_tight_max_new_tokens(gen, beams):
    """A limit that only the shortest match fits yields that match."""
    pattern, shortest = r"(the )*[0-9]+the !", 4  # one digit, " the" ..., " ", "!"
    with pytest.raises(ValueError, match=r"takes \d+ tokens.*max_new_tokens=1"):
        gen.generate(PROMPTS, regex=pattern, max_new_tokens=1)
    for limit in (shortest + 1, shortest + 2, 9):
        found = gen.generate(PROMPTS, regex=pattern, max_new_tokens=limit, num_beams=beams)
        assert all(re.fullmatch(pattern, text) for text in found), (limit, found)


@pytest.mark.long
def test_constraint_overrides_other_options(gen):
    """The output matches even where another option forbids every allowed token."""
    for option in ({"min_new_tokens": 20}, {"no_repeat_ngram_size": 1},
                   {"suppress_tokens": list(range(255))}):  # fmt: skip
        found = gen.generate(PROMPTS, regex="aaa|bbb", max_new_tokens=24, **option)
        assert set(found) <= {"aaa", "bbb"}, (option, found)


@pytest.mark.long
def test_stop_strings_with_a_constraint(gen):
    found = gen.generate(PROMPTS, regex="[a-c]{12}", max_new_tokens=24, stop=["b"], details=True)
    for one in found:
        assert re.fullmatch("[ac]*", one.text), one.text  # cut before the first b, or complete


def test_invalid_constraints(gen):
    for options, message in (
        ({"choices": ["a"], "regex": "b"}, "choices|regex"),
        ({"choices": []}, "choices"),
        ({"regex": "("}, "regex"),
        ({"json_schema": {"type": "nothing"}}, "json_schema|type"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            gen.generate("abc", max_new_tokens=9, **options)
    with pytest.raises(ValueError, match=r"must know the tokenizer"):
        gen.model.generate([[1, 2]], regex="a")


@pytest.mark.long
def test_export_with_a_constraint(gen, tmp_path):
    """The DFA is part of the SavedModel."""
    config = GenerationConfig(max_new_tokens=24, regex=REGEX)
    generator = TextGenerator(gen.model, gen.tokenizer, config, jit_compile=False)
    report = generator.export(
        tmp_path / "1", check=False, jit_compile=False, signatures=("generate", "serving_default")
    )
    served = tf.saved_model.load(report.path).signatures["serving_default"]
    found = [text.decode() for text in served(tf.constant(PROMPTS))["text"].numpy()]
    assert found == generator.generate(PROMPTS)
    assert all(matches("regex", text) for text in found)


@pytest.mark.long
@pytest.mark.parametrize("how", ["greedy", "beams"])
def test_compiled_constraints(gen, how):
    compiled = toy_text.generator()
    options = {"json_schema": SCHEMA, "max_new_tokens": 60, **STRATEGIES[how]}
    assert compiled.generate(PROMPTS, **options) == gen.generate(PROMPTS, **options)
