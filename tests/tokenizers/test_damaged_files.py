"""Damaged tokenizer files: each ends in an explained error, whatever is wrong in them."""

import copy
import json

import pytest

from tests.tokenizers.conftest import byte_level
from tfgpt2 import GPT2Tokenizer
from tfgpt2.checkpoints.tokenizer_files import read_vocabulary
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.registry import FAMILIES

VOCAB = {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}
CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"


def write(folder, **contents):
    for name, content in contents.items():
        content = content if isinstance(content, (str, bytes)) else json.dumps(content)
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(data)


@pytest.fixture
def pair(tmp_path):
    """A folder with `vocab.json` and `merges.txt`."""
    write(tmp_path, vocab__json=VOCAB, merges__txt="#version: 0.2\na b\n")
    return tmp_path


@pytest.fixture(scope="module")
def whole():
    """The contents of a `tokenizer.json`."""
    import tokenizers

    backend = byte_level(tokenizers.models.BPE(VOCAB, [("a", "b")]))
    backend.add_special_tokens(["<|endoftext|>"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 3)]
    )
    return json.loads(backend.to_str())


def changed(data, path, value):
    """Returns a copy of the data with another value at a path."""
    data = copy.deepcopy(data)
    *parents, last = path
    place = data
    for key in parents:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return data


def check_refused(folder, *parts):
    with pytest.raises((ValueError, TypeError), match="(?s)" + ".*".join(parts)) as caught:
        files.read(folder, FAMILIES)
    assert "Received: " in str(caught.value)


MODEL = ("model",)
TOKEN = ("added_tokens", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (MODEL, None, "`model` must be an object"),
        (MODEL, KeyError, "`model` must be an object"),
        (MODEL, [], "`model` must be an object"),
        (MODEL, "BPE", "`model` must be an object"),
        ((*MODEL, "type"), ["BPE"], "`model.type` is of no supported family"),
        ((*MODEL, "type"), 3, "`model.type` is of no supported family"),
        ((*MODEL, "vocab"), ["a", "b"], "`model.vocab` must be an object"),
        ((*MODEL, "vocab"), None, "`model.vocab` must be an object"),
        ((*MODEL, "vocab"), "a", "`model.vocab` must be an object"),
        ((*MODEL, "vocab", "a"), -1, "integers of at least 0"),
        ((*MODEL, "vocab", "a"), "0", "integers of at least 0"),
        ((*MODEL, "vocab", "a"), 0.0, "integers of at least 0"),
        ((*MODEL, "vocab", "a"), None, "integers of at least 0"),
        ((*MODEL, "vocab", "a"), True, "integers of at least 0"),
        ((*MODEL, "vocab", "a"), 1, "Two tokens have the id 1"),
        ((*MODEL, "vocab", "c\ud800"), 4, "integers of at least 0"),
        ((*MODEL, "vocab", "c"), 2**31 - 1, "ids without a token"),
        ((*MODEL, "vocab", "c"), 10**12, "ids without a token"),
        ((*MODEL, "vocab", "c"), 10**400, "ids without a token"),
        ((*MODEL, "merges"), {"a": "b"}, "`model.merges` must be an array"),
        ((*MODEL, "merges"), "a b", "`model.merges` must be an array"),
        ((*MODEL, "merges", 0), 7, "A merge is two tokens"),
        ((*MODEL, "merges", 0), None, "A merge is two tokens"),
        ((*MODEL, "merges", 0), ["a", 7], "A merge is two tokens"),
        ((*MODEL, "merges", 0), ["a"], "A merge is two tokens"),
        ((*MODEL, "merges", 0), {"a": 1, "b": 2}, "A merge is two tokens"),
        ((*MODEL, "merges", 0), ["b", "a"], "'ba', which the vocabulary does not have"),
        ((*MODEL, "fuse_unk"), "yes", "`model.fuse_unk` must be true or false"),
        ((*MODEL, "unk_token"), 3, "`model.unk_token` must be a string"),
        ((*MODEL, "unk_token"), "<unk>", "`unk_token` of the model must be a token"),
        (("added_tokens",), {}, "`added_tokens` must be an array"),
        (("added_tokens",), "x", "`added_tokens` must be an array"),
        (TOKEN, "<|endoftext|>", "`added_tokens` must be an object"),
        (TOKEN, None, "`added_tokens` must be an object"),
        ((*TOKEN, "id"), KeyError, "an integer of at least 0"),
        ((*TOKEN, "id"), "3", "an integer of at least 0"),
        ((*TOKEN, "id"), 3.0, "an integer of at least 0"),
        ((*TOKEN, "id"), -3, "an integer of at least 0"),
        ((*TOKEN, "id"), 9, "gives? it two"),
        ((*TOKEN, "content"), KeyError, "An added token needs a text"),
        ((*TOKEN, "content"), 5, "non-empty string"),
        ((*TOKEN, "content"), "", "non-empty string"),
        ((*TOKEN, "content"), "\udc00", "non-empty string"),
        ((*TOKEN, "content"), "a", "gives? it two"),
        ((*TOKEN, "lstrip"), "no", "`lstrip` of an added token must be True or False"),
        ((*TOKEN, "special"), 1, "`special` of an added token must be True or False"),
        (("normalizer",), [], "`normalizer` must be an object"),
        (("normalizer",), {}, "`normalizer.type` must be a string"),
        (("normalizer",), {"type": "Sequence"}, "`normalizer.normalizers` must be an array"),
        (("pre_tokenizer",), "ByteLevel", "`pre_tokenizer` must be an object"),
        (("pre_tokenizer", "type"), None, "`pre_tokenizer.type` must be a string"),
        (("pre_tokenizer", "add_prefix_space"), 1, "add_prefix_space` must be true or false"),
        (("pre_tokenizer", "use_regex"), "", "use_regex` must be true or false"),
        (("decoder",), ["ByteLevel"], "`decoder` must be an object"),
        (("post_processor",), 0, "`post_processor` must be an object"),
        (("post_processor", "single"), {}, "`post_processor` may put"),
        (("post_processor", "single"), [], "`post_processor` may put"),
        (("post_processor", "single", 0), 3, "`post_processor` may put"),
        (("post_processor", "single", 0, "SpecialToken"), {}, "`post_processor` may put"),
        (("post_processor", "single", 0, "SpecialToken", "id"), [], "`post_processor` may put"),
        (("post_processor", "special_tokens"), {}, "`post_processor` may put"),
        (("post_processor", "special_tokens"), [], "`post_processor` may put"),
    ],
)
def test_tokenizer_json(tmp_path, whole, path, value, message):
    files_ok = changed(whole, ("version",), "1.0")
    write(tmp_path, tokenizer__json=files_ok)
    files.read(tmp_path, FAMILIES)
    write(tmp_path, tokenizer__json=changed(whole, path, value))
    check_refused(tmp_path, message)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "vocab.json", CONFIG, MAP, ADDED], ids=lambda name: name
)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"x"', id="string"),
        pytest.param(b"[" * 100_000, id="nested"),
        pytest.param(b'{"a": 1e', id="number"),
        pytest.param(b"\xef\xbb\xbf{}", id="mark"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", id="digits"),
    ],
)
def test_files_that_are_no_json_object(pair, name, content):
    write(pair, **{name.replace(".", "__"): content})
    check_refused(pair, f"'{name}' is damaged", "Received: path=")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "'merges.txt' is damaged"),
        (b"a b\na", "A merge is two tokens"),
        (b"a b c\n", "A merge is two tokens"),
        (b" a\n", "A merge is two tokens"),
        (b"a c\n", "'c', which the vocabulary does not have"),
        (b"\x00" * 64, "A merge is two tokens"),
    ],
)
def test_merges(pair, content, message):
    write(pair, merges__txt=content)
    check_refused(pair, message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (CONFIG, {"eos_token": 3}, "non-empty string"),
        (CONFIG, {"eos_token": ["</s>"]}, "non-empty string"),
        (CONFIG, {"eos_token": {"content": 3}}, "non-empty string"),
        (CONFIG, {"eos_token": {"content": "</s>", "lstrip": 1}}, "`lstrip` of an added token"),
        (CONFIG, {"pad_token": "\ud800"}, "non-empty string"),
        (CONFIG, {"added_tokens_decoder": []}, "`added_tokens_decoder` must be an object"),
        (CONFIG, {"added_tokens_decoder": {"x": {"content": "<x>"}}}, "an integer of at least 0"),
        (CONFIG, {"added_tokens_decoder": {"-1": {"content": "<x>"}}}, "an integer of at least 0"),
        (CONFIG, {"added_tokens_decoder": {"9" * 30: {"content": "<x>"}}}, "an integer of at"),
        (CONFIG, {"added_tokens_decoder": {"1000000000000": "<x>"}}, "ids without a token"),
        (CONFIG, {"added_tokens_decoder": {"4": None}}, "An added token needs a text"),
        (CONFIG, {"added_tokens_decoder": {"4": {"content": "a"}}}, "gives? it two"),
        (CONFIG, {"additional_special_tokens": "<x>"}, "must be a list of tokens"),
        (CONFIG, {"additional_special_tokens": 3}, "must be a list of tokens"),
        (CONFIG, {"additional_special_tokens": [None]}, "must be a list of tokens"),
        (CONFIG, {"additional_special_tokens": [3]}, "non-empty string"),
        (CONFIG, {"additional_special_tokens": {"a": "<x>"}}, "must be a list of tokens"),
        (CONFIG, {"extra_special_tokens": "<x>"}, "must be a list of tokens"),
        (CONFIG, {"extra_special_tokens": [[]]}, "non-empty string"),
        (CONFIG, {"extra_special_tokens": {"image_token": 3}}, "non-empty string"),
        (CONFIG, {"model_specific_special_tokens": []}, "must be an object"),
        (CONFIG, {"image_token": ""}, "non-empty string"),
        (CONFIG, {"tokenizer_class": 3}, "`tokenizer_class` must be a string"),
        (CONFIG, {"tokenizer_class": " "}, "of no supported family"),
        (CONFIG, {"padding_side": ["left"]}, "`padding_side` must be"),
        (CONFIG, {"padding_side": {}}, "`padding_side` must be"),
        (CONFIG, {"model_max_length": "x"}, "`model_max_length` must be"),
        (CONFIG, {"model_max_length": -5}, "`model_max_length` must be"),
        (CONFIG, '{"model_max_length": NaN}', "`model_max_length` must be"),
        (CONFIG, {"add_bos_token": "yes"}, "`add_bos_token` must be"),
        (CONFIG, {"add_prefix_space": 1}, "`add_prefix_space` must be"),
        (CONFIG, {"add_eos_token": True}, "`add_eos_token` asks for.*append"),
        (CONFIG, {"add_eos_token": 1}, "`add_eos_token` must be true or false"),
        (MAP, {"unk_token": 1.5}, "non-empty string"),
        (MAP, {"additional_special_tokens": True}, "must be a list of tokens"),
        (ADDED, {"<x>": "4"}, "an integer of at least 0"),
        (ADDED, {"<x>": -4}, "an integer of at least 0"),
        (ADDED, {"<x>": 4.5}, "an integer of at least 0"),
        (ADDED, {"<x>": None}, "an integer of at least 0"),
        (ADDED, {"": 4}, "non-empty string"),
        (ADDED, {"<x>": 2**31 - 1}, "ids without a token"),
        (ADDED, {"<x>": 0}, "Two tokens have the id 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_settings(pair, name, content, message):
    write(pair, **{name.replace(".", "__"): content})
    check_refused(pair, message)


@pytest.mark.parametrize("limit", ["1e30", "1e400", str(10**30), str(2**63 - 1), str(10**12)])
def test_lengths_that_stand_for_none(pair, limit):
    write(pair, tokenizer_config__json=f'{{"model_max_length": {limit}}}')
    assert files.read(pair, FAMILIES).model_max_length is None


def test_null_counts_as_missing(pair, whole):
    expected = files.read(pair, FAMILIES)
    names = ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens",
             "padding_side", "model_max_length", "tokenizer_class", "add_eos_token",
             "model_specific_special_tokens", "image_token")  # fmt: skip
    write(pair, tokenizer_config__json=dict.fromkeys(names))
    assert files.read(pair, FAMILIES) == expected
    data = changed(changed(whole, ("added_tokens",), None), ("post_processor",), None)
    data = changed(changed(data, ("decoder",), None), (*MODEL, "fuse_unk"), None)
    write(pair, tokenizer__json=data)
    assert files.read(pair, FAMILIES) == expected


def test_ids_may_have_some_holes(pair):
    write(pair, vocab__json=VOCAB | {"c": 60_000})
    tokenizer = GPT2Tokenizer.from_pretrained(pair)
    assert tokenizer("abc").input_ids == [2, 60_000]


@pytest.mark.parametrize(
    "values",
    [{"a": 10**12}, {"a": -1}, {"a": "0"}, {"a": 0.5}, {"a": True}, {"a": None}, {}, {"a": []}],
)
def test_a_vocabulary_that_is_converted(tmp_path, values):
    write(tmp_path, vocab__json=values, merges__txt="")
    with pytest.raises(ValueError, match="vocab.json is not a readable checkpoint.*Received: "):
        read_vocabulary(lambda name: p if (p := tmp_path / name).is_file() else None, 10)


@pytest.mark.parametrize(
    "values",
    [{}, {"model": None}, {"model": {"vocab": []}}, {"model": {"vocab": {"a": 0}, "merges": [3]}},
     {"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": [{"content": "x"}]},
     {"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": [{"content": "x", "id": "1"}]}],
)  # fmt: skip
def test_a_tokenizer_json_that_is_converted(tmp_path, values):
    write(tmp_path, tokenizer__json=values)
    with pytest.raises(ValueError, match="tokenizer.json is not a readable check.*Received: "):
        read_vocabulary(lambda name: p if (p := tmp_path / name).is_file() else None, 10)
