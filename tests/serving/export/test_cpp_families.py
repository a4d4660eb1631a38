"""Every tokenizer family, string in and string out, where there is no Python code of ours.

In C++, and on `tfgpt2 serve`, whose process imports no tokenizer code.
"""

import keras
import pytest
import tensorflow as tf

from tests.support import cpp_program
from tests.support import slow_sentencepiece as slow
from tests.tokenizers.test_character_bpe import trained
from tests.tokenizers.test_family_checkpoints import FAMILIES
from tfgpt2 import GenerationConfig, GPT2Config, TextGenerator, TFGPT2LMHeadModel, TFGPT2Tokenizer
from tfgpt2.serving import Client

CORPUS = {"hard_vocab_limit": False}
SENTENCEPIECE = {
    "unigram": ("t5", {"vocab_size": 220}),
    "albert": ("albert", {"vocab_size": 220}),
    "gpt_sw3": ("gpt_sw3", {"model_type": "bpe", "byte_fallback": True, "vocab_size": 450}),
}
PROMPT = "Speak the \u4f60 9,9"
NAMES = ("generate", "tokenize", "detokenize")
OPTIONS = {"max_new_tokens": 6, "temperature": 0.0}


def layer_of(name):
    if name == "nfkc":
        return TFGPT2Tokenizer.from_tokenizer(trained(form="NFKC")), "\uff48\uff45llo \u1112\u1161"
    if name in FAMILIES:
        make, prompt, _ = FAMILIES[name]
        return TFGPT2Tokenizer.from_tokenizer(make()), prompt
    family, training = SENTENCEPIECE[name]
    model = slow.train(slow.CORPUS, **CORPUS | training)
    return TFGPT2Tokenizer(model=model, family=family), PROMPT


@pytest.fixture(scope="module", params=[*FAMILIES, "nfkc", *SENTENCEPIECE])
def exported(request, tmp_path_factory):
    """A generator with random weights, its export, and a prompt."""
    layer, prompt = layer_of(request.param)
    keras.utils.set_random_seed(1)
    config = GPT2Config(vocab_size=layer.vocab_size, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    generator = TextGenerator(
        TFGPT2LMHeadModel(config), layer, GenerationConfig(max_new_tokens=6), jit_compile=False
    )
    folder = tmp_path_factory.mktemp("models") / "family"
    generator.export(folder / "1", jit_compile=False, check=False, signatures=NAMES)
    return generator, folder, prompt


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return cpp_program.installed(tmp_path_factory.mktemp("cpp"))


@pytest.mark.long
def test_in_cpp(exported, program):
    generator, folder, prompt = exported
    ids = generator.tokenizer.tokenize(prompt).numpy().tolist()
    text = {"text": tf.constant([prompt])}
    found, written, again = program(folder / "1", [
        ("tokenize", text),
        ("generate", text | {name: tf.constant([value]) for name, value in OPTIONS.items()}),
        ("detokenize", {"ids": tf.constant([ids])}),
    ], xla=False)  # fmt: skip
    assert found["ids"].tolist() == [[*generator.tokenizer.spec.prefix_ids, *ids]]
    record = generator.generate(prompt, details=True, **OPTIONS)
    assert written["text_bytes"].tolist() == [record.text_bytes]
    text = generator.tokenizer.detokenize(ids, skip_special_tokens=True).numpy()
    assert again["text"].tolist() == [text]


@pytest.mark.long
def test_on_the_server(exported, start_server):
    generator, folder, prompt = exported
    server = start_server(folder)
    with Client(server.url, "family", timeout=100) as client:
        client.wait_until_ready(100)
        record = generator.generate(prompt, details=True, **OPTIONS)
        found = client.generate(prompt, **OPTIONS)
        assert (found.text_bytes, found.prompt_tokens) == (record.text_bytes, record.prompt_tokens)
        ids = generator.tokenizer.tokenize(prompt).numpy().tolist()
        assert client.tokenize(prompt).ids == [*generator.tokenizer.spec.prefix_ids, *ids]
    server.terminate()
