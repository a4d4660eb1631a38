"""Training a vocabulary: the same merges as `tokenizers`, and files that load everywhere."""

import json

import pytest
import tokenizers

import tfgpt2
from tfgpt2.tokenizers.training import read_chunks, train_tokenizer

TEXT = (
    "First Citizen:\n\nBefore we proceed any further, hear me speak.\n\n\tÉlan  naïve 日本語 🙂\r\n"
    "low lower lowest low slow slower; 12 123 1234 don't we'll\n\n\n   indented lines!\x1c!\x1c x\n"
) * 4
SAMPLE = "lowest Élan\n\n  🙂 don't <|endoftext|> proceed\x00 newest \u3000日本"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


def test_the_merges_are_those_of_the_library_on_the_whole_text(file):
    peer = tokenizers.ByteLevelBPETokenizer()
    peer.train_from_iterator([TEXT], vocab_size=330, special_tokens=["<|endoftext|>"])
    peer = json.loads(peer.to_str())["model"]
    ours = json.loads(train_tokenizer(file, 330).backend_tokenizer.to_str())["model"]
    assert ours["vocab"] == peer["vocab"] and ours["merges"] == peer["merges"]
    assert len(ours["vocab"]) == 330


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_chunks_join_to_the_file_and_end_where_tokens_end(file, size):
    found = list(read_chunks(file, size))
    assert "".join(found) == TEXT
    cut = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    whole = [token for token, _ in cut(TEXT)]
    assert [token for chunk in found for token, _ in cut(chunk)] == whole
    assert size > 64 or len(found) > 10


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "marked.txt"
    path.write_bytes(b"\xef\xbb\xbflow \xef\xbb\xbf lower")
    for size in (1, 100):
        assert "".join(read_chunks(path, size)) == "low \ufeff lower"


def test_bytes_that_are_not_utf8_are_replaced(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 noir \xf0\x9f")
    assert "".join(read_chunks(path, 2)) == "caf\ufffd noir \ufffd"


def test_the_files_give_equal_ids_everywhere(file, tmp_path):
    trained = train_tokenizer([file, file], 300, special_tokens=("<|endoftext|>", "<|pad|>"))
    trained.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"} <= names
    layer = tfgpt2.TFGPT2Tokenizer.from_pretrained(tmp_path)
    for text in (SAMPLE, TEXT, ""):
        ids = trained(text)["input_ids"]
        assert layer.tokenize(text).numpy().tolist() == ids
        assert trained.decode(ids) == text
    assert trained.eos_token_id == trained.bos_token_id == 0
    assert trained("a<|pad|>")["input_ids"][-1] == 1
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2TokenizerFast.from_pretrained(tmp_path)
    for text in (SAMPLE, TEXT):
        assert theirs(text)["input_ids"] == trained(text)["input_ids"]
    assert theirs.eos_token == "<|endoftext|>"


def test_every_byte_can_be_written(file):
    trained = train_tokenizer(file, 257)
    raw = bytes(range(256)).decode("latin-1")
    assert trained.decode(trained(raw)["input_ids"]) == raw


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 256}, "`vocab_size` must be an integer of at least 257"),
        ({"vocab_size": 300.0}, "`vocab_size` must be an integer of at least"),
        ({"min_frequency": 0}, "`min_frequency` must be an integer of at least 1"),
        ({"special_tokens": ("a", "a")}, "distinct non-empty strings"),
        ({"special_tokens": ("",)}, "distinct non-empty strings"),
        ({"files": []}, "no text to train on"),
        ({"files": "absent.txt"}, "no such file"),
    ],
)
def test_bad_arguments(file, options, message):
    options = {"files": file, "vocab_size": 300} | options
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_tokenizer(options.pop("files"), **options)


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="no text to train on"):
        train_tokenizer(tmp_path / "empty.txt", 300)
