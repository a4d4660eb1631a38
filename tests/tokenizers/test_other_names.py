"""A tokenizer is found under OpenAI's and KerasHub's file names, too."""

import json

import keras_hub
import pytest

from tfgpt2 import GPT2TokenizerFast, TextGenerator, TFGPT2Tokenizer, convert

TEXT = "O Romeo, Romeo! wherefore art thou Romeo?"


@pytest.fixture(scope="module")
def bundled():
    return TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")


def test_openai_names(bundled, tmp_path):
    vocab = {token: i for i, token in enumerate(bundled.get_vocabulary())}
    (tmp_path / "encoder.json").write_text(json.dumps(vocab))
    merges = "\n".join(" ".join(pair) for pair in bundled.spec.merges)
    (tmp_path / "vocab.bpe").write_text(f"#version: 0.2\n{merges}\n")
    expected = bundled.tokenize(TEXT).numpy().tolist()
    assert TFGPT2Tokenizer.from_pretrained(tmp_path).tokenize(TEXT).numpy().tolist() == expected
    assert GPT2TokenizerFast.from_pretrained(tmp_path).encode(TEXT) == expected


@pytest.mark.long
def test_a_keras_hub_preset_is_a_text_generator(bundled, tmp_path):
    convert("shakespeare-tiny", tmp_path / "preset", to="keras_hub", progress=False)
    theirs = keras_hub.models.GPT2Tokenizer.from_preset(str(tmp_path / "preset"))
    ours = TFGPT2Tokenizer.from_pretrained(tmp_path / "preset")
    expected = bundled.tokenize(TEXT).numpy().tolist()
    assert ours.tokenize(TEXT).numpy().tolist() == expected
    assert [int(i) for i in theirs(TEXT)] == expected
    options = {"temperature": 0, "max_new_tokens": 8}
    one = TextGenerator.from_pretrained(tmp_path / "preset").generate("JULIET:\n", **options)
    assert one == TextGenerator.from_pretrained("shakespeare-tiny").generate("JULIET:\n", **options)
