"""Saved files load again: in `tokenizers`, in transformers where it is installed, and here."""

import json

import pytest
import tokenizers

from tfgpt2 import GPT2Tokenizer, GPT2TokenizerFast, TFGPT2Tokenizer
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.registry import FAMILIES

TEXTS = ["Speak the speech", "a<|endoftext|> [PAD] b", "  x\n\n y", "é日\x00", ""]


def test_saved_files_load_again(toy, tmp_path):
    first = TFGPT2Tokenizer.from_tokenizer(
        toy,
        pad_token="[PAD]",
        add_bos_token=True,
        padding_side="left",
        truncation_side="left",
        model_max_length=128,
        additional_special_tokens=["<x>"],
    )
    names = [path.rsplit("/", 1)[-1] for path in first.save_pretrained(tmp_path)]
    assert set(names) == {path.name for path in tmp_path.iterdir()}
    second = TFGPT2Tokenizer.from_pretrained(tmp_path)
    assert second.spec == first.spec
    assert GPT2Tokenizer.from_pretrained(tmp_path).spec == first.spec
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = first(TEXTS)
    rows = tf_rows(ids)
    assert rows == [backend.encode(text).ids for text in TEXTS]


def tf_rows(batch):
    ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
    return [row[keep == 1].tolist() for row, keep in zip(ids, mask, strict=True)]


@pytest.mark.parametrize("absent", [["tokenizer.json"], ["vocab.json", "merges.txt"]])
def test_either_form_is_enough(toy, tmp_path, absent):
    spec = toy.spec.replace(pad_token="[PAD]", add_prefix_space=True)
    files.write(spec, tmp_path)
    for name in absent:
        (tmp_path / name).unlink()
    assert files.read(tmp_path, FAMILIES) == spec


def test_older_files(toy, tmp_path):
    """What transformers wrote before `added_tokens_decoder`: two small files beside the pair."""
    files.write_vocabulary(toy.spec, tmp_path)
    size = toy.vocab_size
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[PAD]": size, "<y>": size + 1}))
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps(
            {"pad_token": "[PAD]", "eos_token": {"content": "<|endoftext|>", "lstrip": True}}
        )
    )
    spec = files.read(tmp_path, FAMILIES)
    assert (spec.id_of("[PAD]"), spec.id_of("<y>")) == (size, size + 1)
    assert spec.roles["pad_token"] == "[PAD]"
    by_text = {token.content: token for token in spec.added}
    assert by_text["[PAD]"].special and not by_text["<y>"].special
    assert by_text["<|endoftext|>"].lstrip


def test_files_may_say_that_there_is_no_eos_token(toy, tmp_path):
    files.write(toy.spec.replace(bos_token=None, eos_token=None, unk_token=None), tmp_path)
    tokenizer = TFGPT2Tokenizer.from_pretrained(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (None, None)


def test_a_byte_order_of_options(toy, tmp_path):
    files.write(toy.spec.replace(padding_side="left"), tmp_path)
    assert TFGPT2Tokenizer.from_pretrained(tmp_path).spec.padding_side == "left"
    here = TFGPT2Tokenizer.from_pretrained(tmp_path, padding_side="right", max_length=3)
    assert (here.spec.padding_side, here.max_length) == ("right", 3)


def test_merges_as_pairs_and_as_text(toy_backend, tmp_path):
    data = json.loads(toy_backend.to_str())
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in data["model"]["merges"]]
    specifications = []
    for merges in (pairs, [" ".join(pair) for pair in pairs]):
        data["model"]["merges"] = merges
        (tmp_path / "tokenizer.json").write_text(json.dumps(data))
        specifications.append(files.read(tmp_path, FAMILIES))
    assert specifications[0] == specifications[1]


def test_windows_line_ends_in_merges(toy, tmp_path):
    files.write_vocabulary(toy.spec, tmp_path)
    path = tmp_path / "merges.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert files.read(tmp_path, FAMILIES).merges == toy.spec.merges


def test_a_merge_that_is_written_twice(toy, tmp_path):
    """The last one counts, and is the only one that is saved."""
    TFGPT2Tokenizer.from_tokenizer(toy).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    path = tmp_path / "merges.txt"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, lines[5], *lines]) + "\n")
    found = TFGPT2Tokenizer.from_pretrained(tmp_path)
    assert found.spec.merges == tuple(tuple(line.split()) for line in lines)
    twice = tokenizers.models.BPE.from_file(str(tmp_path / "vocab.json"), str(path))
    backend = tokenizers.Tokenizer(twice)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert found.tokenize(TEXTS[:1]).to_list() == [backend.encode(TEXTS[0]).ids]
    found.save_pretrained(tmp_path / "again")
    assert TFGPT2Tokenizer.from_pretrained(tmp_path / "again").spec == found.spec


def test_transformers(toy, tmp_path):
    transformers = pytest.importorskip("transformers")
    spec = toy.spec.replace(pad_token="[PAD]", model_max_length=64)
    files.write(spec, tmp_path)
    fast = transformers.GPT2TokenizerFast.from_pretrained(tmp_path)
    ours = GPT2TokenizerFast.from_pretrained(tmp_path)
    for options in ({}, {"padding": True}, {"truncation": True, "max_length": 3}):
        theirs = fast(TEXTS, **options)
        assert ours(TEXTS, **options)["input_ids"] == theirs["input_ids"]
        assert ours(TEXTS, **options)["attention_mask"] == theirs["attention_mask"]
    assert TFGPT2Tokenizer.from_tokenizer(fast).spec.roles == spec.roles
    slow = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    assert TFGPT2Tokenizer.from_tokenizer(slow).tokenize(TEXTS).to_list() == [
        slow(text)["input_ids"] for text in TEXTS
    ]
