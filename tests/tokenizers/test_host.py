"""`GPT2Tokenizer` and `GPT2TokenizerFast` on the host."""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2 import GPT2Tokenizer, GPT2TokenizerFast, TFGPT2Tokenizer

VOCAB = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4, "<|endoftext|>": 5}
MERGES = ["a b", "Ġ a"]
LAYER = TFGPT2Tokenizer(VOCAB, MERGES)


@pytest.fixture
def tokenizer():
    return GPT2Tokenizer.from_tokenizer(LAYER)


def test_one_text_and_several(tokenizer):
    one = tokenizer("ab a")
    assert one == {"input_ids": [2, 4], "attention_mask": [1, 1]}
    assert one.input_ids is one["input_ids"]
    assert not hasattr(one, "labels")
    assert tokenizer(["ab a", "b"]).input_ids == [[2, 4], [1]]
    assert tokenizer([]).input_ids == []
    assert tokenizer("").input_ids == []
    assert tokenizer.encode("ab a") == [2, 4]
    assert tokenizer.tokenize("ab a") == ["ab", "Ġa"]


def test_ids_are_those_of_the_layer(toy):
    host = GPT2TokenizerFast.from_tokenizer(toy)
    texts = ["Speak the speech<|endoftext|> ", "日本 \n\n x", ""]
    assert host(texts).input_ids == toy.tokenize(texts).to_list()
    decoded = [text.decode() for text in toy.detokenize(toy.tokenize(texts)).numpy()]
    assert host.batch_decode(toy.tokenize(texts).to_list()) == decoded
    assert TFGPT2Tokenizer.from_tokenizer(host).spec == toy.spec


@pytest.mark.parametrize("kind", ["tf", "np"])
def test_tensors(tokenizer, kind):
    tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(["ab a", "b"], padding=True, return_tensors=kind)
    array = batch.input_ids.numpy() if kind == "tf" else batch.input_ids
    assert array.tolist() == [[2, 4], [1, 5]]
    assert array.dtype == (np.int32 if kind == "tf" else np.int64)
    assert tokenizer("b", return_tensors=kind).input_ids.shape == (1, 1)
    assert tokenizer([], return_tensors=kind).input_ids.shape == (0, 0)
    if kind == "tf":
        assert isinstance(batch.attention_mask, tf.Tensor)


def test_padding(tokenizer):
    tokenizer.pad_token = "<|endoftext|>"
    texts = ["ab a", "b"]
    assert tokenizer(texts, padding=True) == {
        "input_ids": [[2, 4], [1, 5]],
        "attention_mask": [[1, 1], [1, 0]],
    }
    assert tokenizer(texts, padding="max_length", max_length=3).input_ids == [[2, 4, 5], [1, 5, 5]]
    assert tokenizer(texts, padding=True, padding_side="left").input_ids == [[2, 4], [5, 1]]
    tokenizer.padding_side = "left"
    assert tokenizer(texts, padding="longest").attention_mask == [[1, 1], [0, 1]]
    assert tokenizer("b", padding=True, pad_to_multiple_of=4).input_ids == [5, 5, 5, 1]
    assert tokenizer(texts, padding="do_not_pad").input_ids == [[2, 4], [1]]
    rows = [tokenizer(text) for text in texts]
    assert tokenizer.pad(rows).input_ids == [[2, 4], [5, 1]]
    assert tokenizer.pad({"input_ids": [[1], [2, 3]]}).attention_mask == [[0, 1], [1, 1]]
    assert tokenizer.pad(rows, return_tensors="np").input_ids.shape == (2, 2)


def test_truncation(tokenizer):
    text = "ab a a b"
    assert tokenizer(text).input_ids == [2, 4, 4, 3, 1]
    assert tokenizer(text, truncation=True, max_length=2).input_ids == [2, 4]
    assert tokenizer(text, max_length=2).input_ids == [2, 4]
    assert tokenizer(text, max_length=2, truncation=False).input_ids == [2, 4, 4, 3, 1]
    tokenizer.truncation_side = "left"
    assert tokenizer(text, truncation=True, max_length=2).input_ids == [3, 1]
    tokenizer.model_max_length = 3
    assert tokenizer(text, truncation=True).input_ids == [4, 3, 1]


def test_pairs(tokenizer):
    pair = ("aaaa", "bb")
    assert tokenizer(*pair).input_ids == [0, 0, 0, 0, 1, 1]
    assert tokenizer(*pair, return_token_type_ids=True).token_type_ids == [0, 0, 0, 0, 1, 1]
    for options, wanted in (
        ({"max_length": 5}, [0, 0, 0, 1, 1]),
        ({"max_length": 3}, [0, 0, 1]),
        ({"max_length": 4, "truncation": "only_first"}, [0, 0, 1, 1]),
        ({"max_length": 5, "truncation": "only_second"}, [0, 0, 0, 0, 1]),
    ):
        assert tokenizer(*pair, **options).input_ids == wanted
    with pytest.raises(ValueError, match="too short to make the row fit.*truncation='only_second'"):
        tokenizer(*pair, max_length=3, truncation="only_second")
    assert tokenizer(["a", "b"], ["b", "a"]).input_ids == [[0, 1], [1, 0]]


def test_the_pair_is_cut_as_tokenizers_cuts_it(tokenizer):
    backend = tokenizer.backend_tokenizer
    for first in range(6):
        for second in range(1, 6):
            for length in range(1, 11):
                backend.enable_truncation(length)
                wanted = backend.encode("a" * first, "b" * second).ids
                backend.no_truncation()
                got = tokenizer("a" * first, "b" * second, truncation=True, max_length=length)
                assert got.input_ids == wanted, (first, second, length)


def test_the_first_token():
    tokenizer = GPT2Tokenizer.from_tokenizer(LAYER, add_bos_token=True)
    row = tokenizer("ab", return_special_tokens_mask=True, return_length=True)
    assert row.input_ids == [5, 2]
    assert row.special_tokens_mask == [1, 0]
    assert row.length == 2
    assert tokenizer("ab", add_special_tokens=False).input_ids == [2]
    assert tokenizer("ab", "b").input_ids == [5, 2, 5, 1]
    assert tokenizer("aaaa", truncation=True, max_length=3).input_ids == [5, 0, 0]


def test_offsets(tokenizer):
    row = tokenizer("ab a", return_offsets_mapping=True, return_attention_mask=False)
    assert row == {"input_ids": [2, 4], "offset_mapping": [(0, 2), (2, 4)]}


def test_decoding(tokenizer):
    assert tokenizer.decode([2, 4]) == "ab a"
    assert tokenizer.decode(2) == "ab"
    assert tokenizer.decode(tf.constant([2, 4])) == tokenizer.decode(np.array([2, 4])) == "ab a"
    assert tokenizer.decode([2, 5, 4]) == "ab<|endoftext|> a"
    assert tokenizer.decode([2, 5, 4], skip_special_tokens=True) == "ab a"
    assert tokenizer.decode([-1, 99, 2]) == "ab"
    assert tokenizer.decode([]) == ""
    assert tokenizer.batch_decode(tf.constant([[2], [5]]), skip_special_tokens=True) == ["ab", ""]


def test_decoding_can_clean_up():
    tokenizer = GPT2Tokenizer.from_tokenizer(TFGPT2Tokenizer({"a": 0, "Ġ": 1, ".": 2}, []))
    assert tokenizer.decode([0, 1, 2]) == "a ."
    assert tokenizer.decode([0, 1, 2], clean_up_tokenization_spaces=True) == "a."


def test_tokens_and_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids("ab") == 2
    assert tokenizer.convert_tokens_to_ids(["ab", "zz"]) == [2, tokenizer.unk_token_id]
    assert tokenizer.convert_ids_to_tokens(4) == "Ġa"
    assert tokenizer.convert_ids_to_tokens([4, 5, 99]) == ["Ġa", "<|endoftext|>", None]
    assert tokenizer.convert_ids_to_tokens([4, 5], skip_special_tokens=True) == ["Ġa"]
    assert tokenizer.convert_tokens_to_string(["ab", "Ġa", "<|endoftext|>"]) == "ab a<|endoftext|>"


def test_adding_tokens(tokenizer):
    assert (len(tokenizer), tokenizer.vocab_size) == (6, 6)
    assert tokenizer.add_special_tokens({"cls_token": "[CLS]"}) == 1
    assert (len(tokenizer), tokenizer.vocab_size) == (7, 6)
    assert (tokenizer.cls_token, tokenizer.cls_token_id) == ("[CLS]", 6)
    assert tokenizer("a[CLS]b").input_ids == [0, 6, 1]
    assert tokenizer.add_tokens(["<x>", "<y>", "[CLS]", "ab"]) == 2
    assert tokenizer.add_tokens("<z>", special_tokens=True) == 1
    assert tokenizer("<x>ab<z>").input_ids == [7, 2, 9]
    assert tokenizer.decode([7, 2, 9], skip_special_tokens=True) == "<x>ab"
    assert tokenizer.add_special_tokens({"additional_special_tokens": ["<p>"]}) == 1
    assert tokenizer.additional_special_tokens == ["<p>"]
    assert tokenizer.all_special_tokens == ["<|endoftext|>", "[CLS]", "<p>"]
    assert tokenizer.all_special_ids == [5, 6, 10]
    assert tokenizer.special_tokens_map["cls_token"] == "[CLS]"
    assert tokenizer.get_vocab()["<p>"] == tokenizer.get_added_vocab()["<p>"] == 10
    assert TFGPT2Tokenizer.from_tokenizer(tokenizer).tokenize("<p>a").numpy().tolist() == [10, 0]


def test_roles(tokenizer):
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.unk_token == "<|endoftext|>"
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (None, None)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer.pad_token_id == 5
    tokenizer.pad_token = None
    assert tokenizer.pad_token is None
    assert tokenizer.model_input_names == ("input_ids", "attention_mask")
    assert (GPT2Tokenizer.is_fast, GPT2TokenizerFast.is_fast) == (False, True)
    assert "vocab_size=6" in repr(tokenizer)


def test_files(tokenizer, tmp_path):
    vocab_file, merges_file = tokenizer.save_vocabulary(tmp_path, "small")
    assert vocab_file.endswith("small-vocab.json")
    again = GPT2Tokenizer(vocab_file, merges_file, padding_side="left")
    assert again("ab a").input_ids == [2, 4]
    assert again.padding_side == "left"
    tokenizer.save_pretrained(tmp_path)
    whole = GPT2TokenizerFast(tokenizer_file=tmp_path / "tokenizer.json")
    assert whole("ab a").input_ids == [2, 4]
    assert GPT2TokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)("b").input_ids == [1]
    assert GPT2Tokenizer.from_pretrained(tmp_path).spec == tokenizer.spec


def test_the_real_vocabulary(gpt2, shared_data):
    host = GPT2Tokenizer.from_pretrained(shared_data / "gpt2_vocab")
    assert host("Hello world").input_ids == [15496, 995]
    assert (len(host), host.vocab_size, host.eos_token_id) == (50257, 50257, 50256)
    text = "It's 1599 — né  日本\n\n<|endoftext|> end"
    assert host(text).input_ids == gpt2.tokenize(text).numpy().tolist()
    assert host.decode(host(text).input_ids) == text
