"""A checkpoint of each family, string in and string out: in Python, and in a SavedModel."""

import json

import pytest
import tensorflow as tf

from tests.support import saved_model_files
from tests.tokenizers.test_character_bpe import trained
from tests.tokenizers.test_word_level import backend as word_level
from tests.tokenizers.test_wordpiece_files import backend as wordpiece
from tfgpt2 import GPT2Config, GPT2Tokenizer, TextGenerator, TFGPT2LMHeadModel


def characters():
    return trained(scheme=None, unk=None)


# Tokenizer, a prompt, and special tokens that `tokenizer_config.json` names.
FAMILIES = {
    "wordpiece": (wordpiece, "The foxes 你", {}),
    "metaspace": (trained, "안녕하세요 hello", {"eos_token": "</s>"}),
    "characters": (characters, "안녕하세요 hello", {"eos_token": "</s>"}),
    "word_level": (lambda: word_level("WhitespaceSplit"), "NOTE_ON=60 BAR_END", {}),
}


@pytest.fixture(scope="module", params=[
    pytest.param(name, marks=[] if name == "metaspace" else pytest.mark.long) for name in FAMILIES
])  # fmt: skip
def checkpoint(request, tmp_path_factory):
    """A folder as transformers has it, with GPT-2's usual end token, above the vocabulary."""
    make, prompt, names = FAMILIES[request.param]
    theirs, folder = make(), tmp_path_factory.mktemp(request.param)
    theirs.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    config = GPT2Config(
        vocab_size=len(theirs.get_vocab()), n_positions=32, n_embd=16, n_layer=1, n_head=2,
        eos_token_id=0 if names else 50256,
    )  # fmt: skip
    TFGPT2LMHeadModel(config).save_pretrained(folder)
    return folder, theirs, prompt


@pytest.fixture(scope="module")
def generator(checkpoint):
    return TextGenerator.from_pretrained(checkpoint[0], jit_compile=False)


def prompt_ids(theirs, prompt, generator):
    """What the library makes of a text, but for what ends it."""
    ids = theirs.encode(prompt).ids
    return ids[: len(ids) - len(generator.tokenizer.spec.suffix_ids)]


@pytest.mark.long
def test_prompts_are_the_text_without_what_ends_it(checkpoint, generator):
    _, theirs, prompt = checkpoint
    ids = prompt_ids(theirs, prompt, generator)
    record = generator.generate(prompt, max_new_tokens=6, temperature=0, details=True)
    assert record.prompt_tokens == len(ids)
    end = generator.tokenizer.eos_token_id
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": end}
    expected = generator.model.generate(tf.constant([ids]), **options)[0, len(ids) :]
    assert record.token_ids == expected.numpy().tolist()[: len(record.token_ids)]
    table, special = generator.tokenizer.token_bytes, generator.tokenizer.spec.special_ids
    written = b"".join(table[i] for i in record.token_ids if i not in special)
    assert record.text_bytes == written


@pytest.mark.long
def test_streams_stop_strings_and_choices(generator, checkpoint):
    prompt = checkpoint[2]
    special = generator.tokenizer.spec.special_ids  # not shown, and they interrupt a stop string
    options = {"max_new_tokens": 8, "temperature": 1.0, "seed": 3}
    options["suppress_tokens"] = sorted(special)
    whole = generator.generate(prompt, **options)
    assert "".join(generator.stream(prompt, **options)) == whole
    stop = whole.strip()[1:3] or whole[:1]
    if stop:
        cut = generator.generate(prompt, stop=stop, **options)
        assert cut == whole[: whole.index(stop)] == "".join(
            generator.stream(prompt, stop=stop, **options))  # fmt: skip
    table = enumerate(generator.tokenizer.token_bytes)
    token = next(t for i, t in table if t.strip().isalnum() and i not in special)
    found = generator.generate(prompt, choices=[token.decode() * 2], max_new_tokens=8)
    assert found == token.decode() * 2


def test_a_text_ends_with_the_last_special_token(generator):
    assert generator.generation_config.eos_ids == [generator.tokenizer.eos_token_id]


@pytest.mark.long
def test_saved_and_loaded(generator, checkpoint, tmp_path):
    generator.save_pretrained(tmp_path)
    again = TextGenerator.from_pretrained(tmp_path, jit_compile=False)
    options = {"max_new_tokens": 4, "temperature": 0}
    assert again.generate(checkpoint[2], **options) == generator.generate(checkpoint[2], **options)
    assert GPT2Tokenizer.from_pretrained(tmp_path).spec == generator.tokenizer.spec


@pytest.mark.long
def test_in_a_saved_model_in_a_clean_process(generator, checkpoint, tmp_path):
    _, theirs, prompt = checkpoint
    report = generator.export(tmp_path / "1", jit_compile=False)
    assert report.checked
    answers = saved_model_files.run_in_clean_process(tmp_path / "1", {
        "ids": ("tokenize", {"text": [prompt]}),
        "text": ("generate", {"text": [prompt], "max_new_tokens": [6], "temperature": [0.0]}),
    })  # fmt: skip
    assert answers["ids"]["ids"][2][0] == prompt_ids(theirs, prompt, generator)
    ours = generator.generate(prompt, max_new_tokens=6, temperature=0, details=True)
    assert answers["text"]["text_bytes"][2][0].encode("latin-1") == ours.text_bytes


@pytest.mark.long
def test_a_checkpoint_of_transformers(tmp_path):
    """BertTokenizer and GPT2LMHeadModel, both written by transformers."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "你",
        "好",
        "世",
        "界",
        "fox",
        "##es",
        "，",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    theirs = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False)
    theirs.save_pretrained(tmp_path)
    config = transformers.GPT2Config(
        vocab_size=len(words), n_positions=32, n_embd=16, n_layer=1, n_head=2
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    generator = TextGenerator.from_pretrained(tmp_path, jit_compile=False)
    prompt = "你好，世界 foxes"
    assert generator.tokenizer([prompt])["input_ids"].numpy().tolist() == theirs([prompt]).input_ids
    record = generator.generate(prompt, max_new_tokens=4, temperature=0, details=True)
    assert record.prompt_tokens == len(theirs(prompt).input_ids) - 1
    assert generator.generation_config.eos_ids == [3]
