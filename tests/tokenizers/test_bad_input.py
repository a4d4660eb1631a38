"""Bad arguments and files: each has a three-part error."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer

VOCAB = {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}
MERGES = ["a b"]


def raises(kind, *parts):
    """Expects an error whose text holds the parts in this order."""
    return pytest.raises(kind, match="(?s)" + ".*".join(parts))


@pytest.fixture(scope="module")
def tokenizer():
    return TFGPT2Tokenizer(VOCAB, MERGES)


@pytest.mark.parametrize(
    "bad", [None, 3, 2.5, [1, 2], ["a", None], ["a", 1], {"text": "a"}, np.array([1]), object()]
)
@pytest.mark.parametrize("method", ["__call__", "tokenize"])
def test_inputs_that_are_not_text(tokenizer, bad, method):
    with raises(TypeError, "takes text: a string", "Received: inputs=", "`detokenize`"):
        getattr(tokenizer, method)(bad)


@pytest.mark.parametrize("bad", [tf.constant([1, 2]), tf.ragged.constant([[1], []])])
def test_tensors_of_another_type(tokenizer, bad):
    with raises(TypeError, "takes text", "Received: inputs=", "dtype=tf.int32", "`detokenize`"):
        tokenizer.tokenize(bad)


def test_wrong_rank(tokenizer):
    with raises(ValueError, "1 or 2 axes", "Received: shape=", "Reshape the tensor"):
        tokenizer(tf.constant([[["a"]]]))

    @tf.function(input_signature=[tf.TensorSpec(None, tf.string)])
    def unknown_rank(text):
        return tokenizer.tokenize(text)

    with raises(ValueError, "1 or 2 axes", "tf.ensure_shape"):
        unknown_rank(tf.constant(["a"]))


def test_rows_of_different_lengths_are_groups(tokenizer):
    assert tokenizer.tokenize([["a"], ["b", "ab"]]).to_list() == [[[0]], [[1], [2]]]
    with raises(TypeError, "takes text"):
        tokenizer.tokenize(["a", ["b"]])


def test_half_a_surrogate_pair(tokenizer):
    with raises(ValueError, "half of a surrogate pair", "Received: inputs=", "Clean it first"):
        tokenizer("a\ud800")


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3", True])
@pytest.mark.parametrize("name", ["max_length", "pad_to_multiple_of"])
def test_lengths(tokenizer, name, bad):
    match = (f"`{name}` must be None or an integer of at least 1", f"{name}={bad!r}", "Leave it")
    with raises(ValueError, *match):
        TFGPT2Tokenizer(VOCAB, MERGES, **{name: bad})
    if name == "max_length":
        with raises(ValueError, *match):
            tokenizer("a", max_length=bad)


def test_no_room_for_text_after_the_first_token():
    with raises(ValueError, "no room", "max_length=1", "at least 2", "add_bos_token=False"):
        TFGPT2Tokenizer(VOCAB, MERGES, max_length=1, add_bos_token=True)
    with raises(ValueError, "no room", "Received: max_length=1"):
        TFGPT2Tokenizer(VOCAB, MERGES, add_bos_token=True)("a", max_length=1)


@pytest.mark.parametrize("bad", [-1, -100, 1.0, "0"])
def test_pad_token_id(bad):
    with raises(ValueError, "`pad_token_id` must be None or an integer of at least 0"):
        TFGPT2Tokenizer(VOCAB, MERGES, pad_token_id=bad)


def test_unknown_keywords(tokenizer, shared_data):
    with raises(TypeError, "no option 'padding_sid'", "padding_sid='left'", "'padding_side'"):
        TFGPT2Tokenizer(VOCAB, MERGES, padding_sid="left")
    with raises(TypeError, "no option 'max_len'", "max_len=3", "Did you mean 'max_length'"):
        tokenizer("a", max_len=3)
    with raises(TypeError, "no option 'revison'", "revison='main'"):
        TFGPT2Tokenizer.from_pretrained(shared_data / "gpt2_vocab", revison="main")
    with raises(TypeError, "no option 'max_lenght'", "Did you mean 'max_length'"):
        TFGPT2Tokenizer.from_pretrained(shared_data / "gpt2_vocab", max_lenght=3)


@pytest.mark.parametrize("name", ["padding_side", "truncation_side"])
def test_sides(name):
    with raises(ValueError, f"`{name}` must be 'left' or 'right'", f"{name}='top'", "one of the"):
        TFGPT2Tokenizer(VOCAB, MERGES, **{name: "top"})


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("model_max_length", 0),
        ("model_max_length", "long"),
        ("model_max_length", 2.5),
        ("add_prefix_space", "yes"),
        ("add_bos_token", 1),
    ],
)
def test_invalid_settings(tmp_path, name, bad):
    with raises(ValueError, f"`{name}` must be", f"Received: {name}={bad!r}", "Pass one"):
        TFGPT2Tokenizer(VOCAB, MERGES, **{name: bad})
    folder = write(tmp_path / "model", **GOOD, tokenizer_config__json=json.dumps({name: bad}))
    with raises(ValueError, f"`{name}` must be", "tokenizer_config.json"):
        GPT2Tokenizer.from_pretrained(folder)


def test_a_single_additional_token():
    with raises(TypeError, "must be a list", "additional_special_tokens='<x>'", "brackets"):
        TFGPT2Tokenizer(VOCAB, MERGES, additional_special_tokens="<x>")


def test_special_tokens_policy():
    with raises(ValueError, "`special_tokens` must be one of", "special_tokens='no'"):
        TFGPT2Tokenizer(VOCAB, MERGES, special_tokens="no")


def test_dtype():
    with raises(ValueError, "`dtype` must be one of", "Received: dtype='int64'"):
        TFGPT2Tokenizer(VOCAB, MERGES, dtype="int64")


def test_a_first_token_that_does_not_exist():
    with raises(ValueError, "`add_bos_token` needs a `bos_token`", "bos_token=None", "Pass"):
        TFGPT2Tokenizer({"a": 0}, [], add_bos_token=True)


@pytest.mark.parametrize("bad", [None, ["a", "b"], "vocab.json"])
def test_a_vocabulary_of_another_type(bad):
    with raises(TypeError, "maps each token to its id", "Received: vocab=", "from_pretrained"):
        TFGPT2Tokenizer(bad, [])


@pytest.mark.parametrize("bad", [{"a": -1}, {"a": 1.0}, {"a": None}, {1: 1}, {"a": True}])
def test_invalid_ids_in_a_vocabulary(bad):
    with raises(ValueError, "integers of at least 0", "Received: token=", "Check `vocab.json`"):
        TFGPT2Tokenizer(bad, [])


def test_two_tokens_with_one_id():
    with raises(ValueError, "Two tokens have the id 0", r"Received: tokens=\['a', 'b'\]"):
        TFGPT2Tokenizer({"a": 0, "b": 0}, [])


@pytest.mark.parametrize("bad", ["ab", "a b c", "", ("a",), ("a", ""), ("a", 1)])
def test_merges_that_are_not_pairs(bad):
    with raises(ValueError, "two tokens with one space", "Received: merge=", "may be cut off"):
        TFGPT2Tokenizer(VOCAB, [bad])


def test_merges_of_another_vocabulary():
    with raises(ValueError, "uses the token 'c', which", "merge='a c'", "one and the same"):
        TFGPT2Tokenizer(VOCAB, ["a b", "a c"])


@pytest.mark.parametrize("bad", [1.5, "a", [0.5], None, [["a"]], tf.constant([1.0])])
def test_ids_that_are_not_integers(tokenizer, bad):
    with raises(TypeError, "Token ids must be integers", "Received: inputs=", "what `tokenize`"):
        tokenizer.detokenize(bad)


def test_a_single_id(tokenizer):
    with raises(ValueError, "at least one axis", "Received: inputs=", r"`\[id\]`"):
        tokenizer.detokenize(tf.constant(1))


def test_tokens_and_ids_outside_the_vocabulary(tokenizer):
    with raises(ValueError, "no such token", "Received: token='zz'", "Ġ"):
        tokenizer.token_to_id("zz")
    for bad in (-1, 4):
        with raises(ValueError, "at least 0 and less than 4", f"Received: id={bad}"):
            tokenizer.id_to_token(bad)


def test_objects_that_are_not_tokenizers():
    with raises(TypeError, "Expected a `tokenizers.Tokenizer`", "Received:", "from_pretrained"):
        TFGPT2Tokenizer.from_tokenizer("gpt2")


def write(folder, **contents):
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


GOOD = {"vocab__json": json.dumps(VOCAB), "merges__txt": "#version: 0.2\na b\n"}


@pytest.mark.parametrize("cls", [TFGPT2Tokenizer, GPT2Tokenizer])
@pytest.mark.parametrize(
    ("change", "kind", "parts"),
    [
        ({"vocab__json": '{"a": 0, "b'}, ValueError, ["'vocab.json' is damaged", "path=", "again"]),
        ({"vocab__json": "[]"}, ValueError, ["'vocab.json' is damaged: expected an object"]),
        ({"vocab__json": b"\xff\xfe"}, ValueError, ["'vocab.json' is damaged", "utf-8"]),
        ({"merges__txt": "#version: 0.2\na b\na"}, ValueError, ["two tokens", "merge='a'", "cut"]),
        ({"merges__txt": "a c\n"}, ValueError, ["'c', which the vocabulary does not", "same"]),
        ({"tokenizer__json": "{"}, ValueError, ["'tokenizer.json' is damaged"]),
        ({"tokenizer_config__json": "null"}, ValueError, ["'tokenizer_config.json' is damaged"]),
        ({"tokenizer_config__json": '{"eos_token": 3}'}, ValueError, ["non-empty string", "=3"]),
        ({"added_tokens__json": '{"<x>": 0}'}, ValueError, ["Two tokens have the id 0", "<x>"]),
        ({"tokenizer_config__json": '{"padding_side": "up"}'}, ValueError, ["`padding_side` must"]),
    ],
)
def test_damaged_files(tmp_path, cls, change, kind, parts):
    folder = write(tmp_path / "model", **(GOOD | change))
    with raises(kind, *parts):
        cls.from_pretrained(folder)


@pytest.mark.parametrize("cls", [TFGPT2Tokenizer, GPT2Tokenizer])
def test_missing_files(tmp_path, cls):
    for missing in GOOD:
        rest = {name: text for name, text in GOOD.items() if name != missing}
        folder = write(tmp_path / f"without {missing}", **rest)
        with raises(FileNotFoundError, missing.replace("__", "."), "Received: name=", "Point to"):
            cls.from_pretrained(folder)


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        (("normalizer",), {"type": "Lowercase"}, "normalizer"),
        (("pre_tokenizer",), {"type": "Whitespace"}, "pre_tokenizer"),
        (("pre_tokenizer", "use_regex"), False, "pre_tokenizer"),
        (("pre_tokenizer",), None, "pre_tokenizer"),
        (("model", "type"), "Magic", "model.type"),
        (("model", "dropout"), 0.1, "model.dropout"),
        (("model", "byte_fallback"), True, "model.byte_fallback"),
        (("model", "ignore_merges"), True, "model.ignore_merges"),
        (("model", "end_of_word_suffix"), "</w>", "model.end_of_word_suffix"),
        (("decoder",), {"type": "WordPiece"}, "decoder"),
        (("post_processor",), {"type": "BertProcessing"}, "post_processor"),
    ],
)
def test_unsupported_features_are_refused(tmp_path, toy_backend, path, value, name):
    data = json.loads(toy_backend.to_str())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    folder = write(tmp_path / "model", tokenizer__json=json.dumps(data))
    with raises(ValueError, f"`{name}`", "Received: ", "`tokenizers` library"):
        TFGPT2Tokenizer.from_pretrained(folder)


def test_added_tokens_that_tokenizers_cannot_number(tmp_path):
    tokenizer = TFGPT2Tokenizer(VOCAB, MERGES, added_tokens=[{"content": "<x>", "id": 9}])
    assert tokenizer.tokenize("a<x>").numpy().tolist() == [0, 9]
    with raises(ValueError, "without holes", "token='<x>', id=9", "Give it the id 4"):
        tokenizer.save_pretrained(tmp_path)


@pytest.fixture(scope="module")
def host():
    return GPT2Tokenizer.from_tokenizer(TFGPT2Tokenizer(VOCAB, MERGES))


@pytest.mark.parametrize("bad", [None, 3, b"a", [1], ["a", None], tf.constant("a")])
def test_host_inputs_that_are_not_text(host, bad):
    with raises(TypeError, "`text` must be a string or a list", "Received: text=", "TFGPT2Token"):
        host(bad)


def test_host_options(host):
    with raises(TypeError, "no option 'return_tensor'", "Did you mean 'return_tensors'"):
        host("a", return_tensor="tf")
    with raises(ValueError, "`return_tensors` must be one of", "return_tensors='pt'"):
        host("a", return_tensors="pt")
    with raises(ValueError, "`padding` must be one of", "padding='longst'"):
        host("a", padding="longst")
    with raises(ValueError, "`truncation` must be one of"):
        host("a", truncation="yes")
    with raises(ValueError, "`max_length` must be None or an integer of at least 1"):
        host("a", max_length=0)
    with pytest.warns(UserWarning, match="no `model_max_length`"):
        host("a", truncation=True)
    with raises(ValueError, "Padding needs a `pad_token`", "pad_token=None", "eos_token"):
        host(["a", "ab"], padding=True)
    with raises(ValueError, "Rows of different lengths", r"lengths=\[1, 3\]", "padding=True"):
        host(["a", "aaa"], return_tensors="np")
    with raises(ValueError, "one `text_pair` for each", "text=2, text_pair=1"):
        host(["a", "b"], ["a"])
    with raises(TypeError, "no option 'cls_tokn'", "'cls_token'"):
        host.add_special_tokens({"cls_tokn": "[CLS]"})
    with raises(ValueError, "must be a token of the vocabulary", "pad_token='zz'", "add_special"):
        host.pad_token = "zz"
    with raises(TypeError, "Token ids must be integers", "token_ids="):
        host.decode("abc")
    with raises(TypeError, "needs `vocab_file` and `merges_file`", "vocab_file=None"):
        GPT2Tokenizer()
    with raises(ValueError, "nothing to pad without `input_ids`"):
        host.pad({"labels": [[1]]})
    with raises(TypeError, "no option 'padding_sid'", "Did you mean 'padding_side'"):
        GPT2Tokenizer.from_tokenizer(host, padding_sid="left")
