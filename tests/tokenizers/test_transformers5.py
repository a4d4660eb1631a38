"""Directories that transformers 5 saves, and its tokenizers as objects."""

import json

import pytest
import tensorflow as tf
import tokenizers

from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.registry import FAMILIES

transformers = pytest.importorskip("transformers", minversion="5")

TEXTS = ["a<image>b", "Speak <x> the <y>speech<z> ", "<|endoftext|> [PAD]\n\n<image>", "", " <m> m"]
DAMP = {"normalized": False, "special": True}


def plain(folder, **options):
    return transformers.GPT2Tokenizer.from_pretrained(folder, **options)


def with_list(folder):
    return plain(folder, extra_special_tokens=["<image>", "<x>"])


def with_names(folder):
    return plain(folder, extra_special_tokens={"image_token": "<image>"}, pad_token="[PAD]")


def with_both(folder):
    tokenizer = with_names(folder)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<x>", "<y>"]})
    tokenizer.add_tokens(["<z>"])
    tokenizer.add_tokens(["<m>"], special_tokens=True)
    return tokenizer


def with_flags(folder):
    token = tokenizers.AddedToken("<x>", lstrip=True, rstrip=True, **DAMP)
    image = tokenizers.AddedToken("<image>", rstrip=True, **DAMP)
    tokenizer = plain(folder, extra_special_tokens={"image_token": image}, add_prefix_space=True)
    tokenizer.add_special_tokens({"extra_special_tokens": [token]})
    return tokenizer


def with_first_token(folder):
    return plain(folder, add_bos_token=True, extra_special_tokens=["<image>"], padding_side="left")


def of_no_class(folder):
    backend = plain(folder).backend_tokenizer
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, extra_special_tokens=["<image>"], sep_token="[SEP]",
        pad_token="[PAD]", **roles,
    )  # fmt: skip


KINDS = [plain, with_list, with_names, with_both, with_flags, with_first_token, of_no_class]


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory):
    """A directory with `vocab.json` and `merges.txt`."""
    path = tmp_path_factory.mktemp("vocabulary")
    files.write_vocabulary(toy.spec, path)
    return path


@pytest.fixture(scope="module", params=KINDS, ids=[kind.__name__ for kind in KINDS])
def saved(request, folder, tmp_path_factory):
    """A tokenizer of transformers 5, and the directory to which it is saved."""
    path = tmp_path_factory.mktemp("saved")
    tokenizer = request.param(folder)
    tokenizer.save_pretrained(path)
    return type(tokenizer).from_pretrained(path), path


def check_equal(ours, theirs):
    """Compares ids, special tokens and their names."""
    ids = [theirs(text)["input_ids"] for text in TEXTS]
    assert [ours(text)["input_ids"] for text in TEXTS] == ids
    skipped = [theirs.decode(row, skip_special_tokens=True) for row in ids]
    assert [ours.decode(row, skip_special_tokens=True) for row in ids] == skipped
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.extra_special_tokens == theirs.extra_special_tokens
    named = {k: v for k, v in ours.special_tokens_map.items() if isinstance(v, str)}
    assert named == theirs.special_tokens_map
    for name in named:
        assert getattr(ours, name) == getattr(theirs, name)
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id")
    layer = TFGPT2Tokenizer.from_tokenizer(ours)
    assert layer(TEXTS, max_length=20)["input_ids"].numpy().tolist() == [
        [*row, *[layer.pad_token_id] * (20 - len(row))]
        if ours.padding_side == "right"
        else [*[layer.pad_token_id] * (20 - len(row)), *row]
        for row in (row[:20] for row in ids)
    ]
    assert layer.tokenize(tf.constant(TEXTS)).to_list() == [
        theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS
    ]


def test_directories(saved):
    theirs, path = saved
    check_equal(GPT2Tokenizer.from_pretrained(path), theirs)


def test_objects(saved):
    theirs, path = saved
    ours = GPT2Tokenizer.from_tokenizer(theirs)
    check_equal(ours, theirs)
    assert ours.spec == GPT2Tokenizer.from_pretrained(path).spec


def test_saved_again(saved, tmp_path):
    theirs, path = saved
    ours = GPT2Tokenizer.from_pretrained(path)
    ours.save_pretrained(tmp_path)
    assert GPT2Tokenizer.from_pretrained(tmp_path).spec == ours.spec
    check_equal(ours, type(theirs).from_pretrained(tmp_path))
    layer = TFGPT2Tokenizer.from_pretrained(path)
    assert TFGPT2Tokenizer.from_config(json.loads(json.dumps(layer.get_config()))).spec == ours.spec


@pytest.mark.parametrize(
    "config",
    [
        {"extra_special_tokens": ["<image>", {"__type": "AddedToken", "content": "<x>"}]},
        {"extra_special_tokens": {"image_token": "<image>", "x_token": {"content": "<x>"}}},
        {"image_token": "<image>", "additional_special_tokens": ["<x>"]},
        {"model_specific_special_tokens": {"image_token": "<image>"}, "x_token": "<x>"},
    ],
)
def test_the_configuration_alone_names_tokens(folder, toy, tmp_path, config):
    """The tokens get the next free ids, and are one token each."""
    files.write_vocabulary(toy.spec, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    spec = files.read(tmp_path, FAMILIES)
    ids = {spec.id_of("<image>"), spec.id_of("<x>")}
    assert ids == {toy.vocab_size, toy.vocab_size + 1} == spec.special_ids - {0}
    layer = TFGPT2Tokenizer.from_pretrained(tmp_path)
    assert set(layer.tokenize("<image><x>").numpy().tolist()) == ids
