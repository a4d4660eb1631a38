"""The special tokens around texts: in rows, in prompts, in files, and what ends a text."""

import json

import pytest
import tensorflow as tf
import tokenizers

from tests.tokenizers.conftest import byte_level
from tfgpt2 import GPT2Config, GPT2Tokenizer, TextGenerator, TFGPT2LMHeadModel, TFGPT2Tokenizer
from tfgpt2.text.checks import with_end_token
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.registry import FAMILIES
from tfgpt2.tokenizers.template import Affixes, Template

VOCAB = {"a": 0, "b": 1, "ab": 2, "<s>": 3, "</s>": 4, "<sep>": 5}
TEXTS = ["abb", "", "a"]
SPECIAL = [tokenizers.AddedToken(token, special=True) for token in ("<s>", "</s>", "<sep>")]


def backend(**template):
    result = byte_level(tokenizers.models.BPE(VOCAB, [("a", "b")]))
    result.add_special_tokens(SPECIAL)
    tokens = [(token, VOCAB[token]) for token in ("<s>", "</s>", "<sep>")]
    result.post_processor = tokenizers.processors.TemplateProcessing(
        special_tokens=tokens, **template
    )
    return result


TEMPLATES = [
    {"single": "<s> $A </s>", "pair": "$A $B:1"},
    {"single": "<s> $A </s>", "pair": "<s> $A </s> $B:1 </s>:1"},
    {"single": "$A </s>", "pair": "$A </s> $B:1 </s>:1"},
    {"single": "<s> <s> $A <sep> </s>", "pair": "<s> $A <sep> <s>:1 $B:1 </s>:1"},
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_rows_are_those_of_tokenizers(template, tmp_path):
    theirs = backend(**template)
    ours = GPT2Tokenizer.from_tokenizer(theirs)
    ours.save_pretrained(tmp_path)
    for host in (ours, GPT2Tokenizer.from_pretrained(tmp_path)):
        pairs = [(text, "ba") for text in TEXTS]
        for first, second in [*pairs, *((text, None) for text in TEXTS)]:
            expected = theirs.encode(first, second) if second else theirs.encode(first)
            row = host(first, second, return_token_type_ids=True, return_special_tokens_mask=True)
            assert row.input_ids == expected.ids and row.token_type_ids == expected.type_ids
            assert row.special_tokens_mask == expected.special_tokens_mask
        assert host("ab", add_special_tokens=False).input_ids == [2]
        assert host.backend_tokenizer.encode("ab", "b").ids == theirs.encode("ab", "b").ids
    assert host.spec == ours.spec


def test_rows_and_prompts_in_the_graph(tmp_path):
    layer = TFGPT2Tokenizer.from_tokenizer(backend(**TEMPLATES[0]), pad_token="</s>")
    assert layer(TEXTS)["input_ids"].numpy().tolist() == [
        [3, 2, 1, 4], [3, 4, 4, 4], [3, 0, 4, 4]]  # fmt: skip
    assert layer("abb", max_length=3)["input_ids"].numpy().tolist() == [[3, 2, 4]]
    assert layer.tokenize(TEXTS).to_list() == [[2, 1], [], [0]]
    assert layer.tokenize_prompts(tf.constant(TEXTS)).to_list() == [[3, 2, 1], [3], [3, 0]]
    config = json.loads(json.dumps(layer.get_config()))
    again = TFGPT2Tokenizer.from_config(config)
    assert again.spec == layer.spec and again.get_config() == layer.get_config()
    layer.save_pretrained(tmp_path)
    assert files.read(tmp_path, FAMILIES) == layer.spec
    with pytest.raises(ValueError, match="no room.*at least 3.*template=None.*|no room"):
        layer("a", max_length=2)


def test_options():
    template = {"prefix": ["<s>"], "suffix": ["</s>"]}
    spec = TFGPT2Tokenizer(VOCAB, ["a b"], template=template).spec
    assert spec.template == Template(("<s>",), ("</s>",)) and (spec.prefix_ids, spec.end_id) == (
        [3], 4)  # fmt: skip
    assert Template(("x",), ("y",)).of_pair() == (Affixes(("x",), ("y",)), Affixes((), ("y",)))
    assert "template" not in TFGPT2Tokenizer(VOCAB, ["a b"]).get_config()
    with pytest.raises(ValueError, match="not in the vocabulary.*template='<x>'"):
        TFGPT2Tokenizer(VOCAB, ["a b"], template={"prefix": ["<x>"]})
    with pytest.raises(TypeError, match="`prefix` must be a list"):
        TFGPT2Tokenizer(VOCAB, ["a b"], template={"prefix": "<s>"})
    with pytest.raises(TypeError, match="no option 'sufix'"):
        TFGPT2Tokenizer(VOCAB, ["a b"], template={"sufix": ["<s>"]})


@pytest.fixture(scope="module")
def model():
    config = GPT2Config(
        vocab_size=6, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=50256,
        eos_token_id=50256,
    )  # fmt: skip
    return TFGPT2LMHeadModel(config)


@pytest.mark.long
def test_prompts_keep_what_comes_before_and_texts_end(model):
    layer = TFGPT2Tokenizer.from_tokenizer(backend(**TEMPLATES[0]))
    generator = TextGenerator(model, layer, on_long_prompt="truncate_left", jit_compile=False)
    assert generator.generation_config.eos_token_id == 4
    prompt, status, _ = generator.pipeline._prompt(
        tf.constant(["ab", "", "b" * 40]), tf.constant([8, 8, 12])
    )
    rows = [
        ids[mask > 0].tolist()
        for ids, mask in zip(prompt.ids.numpy(), prompt.mask.numpy(), strict=True)
    ]
    assert rows == [[3, 2], [3], [3] + [1] * 7]
    assert status.truncated.numpy().tolist() == [0, 0, 33]
    first = generator.generate("ab", max_new_tokens=1, details=True)
    assert first.prompt_tokens == 2


@pytest.mark.long
def test_a_shared_prefix_begins_as_a_text_does(model):
    layer = TFGPT2Tokenizer.from_tokenizer(backend(**TEMPLATES[0]))
    with_prefix = TextGenerator(model, layer, prefix="ab", jit_compile=False)
    ids = model.generate(tf.constant([[3, 2, 2]]), max_new_tokens=1, eos_token_id=4)[0, 3:]
    assert (
        with_prefix.generate("ab", max_new_tokens=1, details=True).token_ids == ids.numpy().tolist()
    )


def test_the_end_token_of_the_model_wins(model):
    layer = TFGPT2Tokenizer.from_tokenizer(backend(**TEMPLATES[0]))
    config = model.generation_config.updated(eos_token_id=2)
    assert with_end_token(config, model, layer) is config
    plain = TFGPT2Tokenizer(VOCAB, ["a b"])
    assert with_end_token(model.generation_config, model, plain) is model.generation_config
