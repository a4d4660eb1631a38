"""Added tokens with any combination of flags, white space among them, against `tokenizers`."""

import itertools
import json
import random

import pytest
import tensorflow as tf
import tokenizers

from tests.support import added_token_twin as twin
from tests.tokenizers.conftest import byte_level
from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer

ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
VOCAB = {character: i for i, character in enumerate(ALPHABET)}
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
CONTENTS = [
    *(" ", "  ", "\n", "\n\n", "\t", "\u3000", " \n", "\u00a0 ", "\x1c", "\u2003"),
    *("a", "ab", "1", "é", "_", "<", "<x>", "<y>", " a", "a ", " <x>", "b\n", "\n<y>", "x> <"),
]
PIECES = [
    *(" ", "  ", "\n", "\n\n", "\t", "\u3000", "\u00a0", "\x1c", "a", "b", "é", "e\u0301", "日"),
    *("_", "1", "²", "-", "<", ">", "x", "<x>", "<y>", "\u200d"),
]


def with_tokens(flags, **options):
    """Returns a `tokenizers` tokenizer whose tokens are single bytes and added tokens."""
    backend = byte_level(tokenizers.models.BPE(VOCAB, []), **options)
    for content, values in flags.items():
        backend.add_tokens([tokenizers.AddedToken(content, **values)])
    return backend


def random_flags(rng, likely=0.4):
    contents = rng.sample(CONTENTS, rng.randint(1, 5))
    return {c: {flag: rng.random() < likely for flag in FLAGS} for c in contents}


def texts_without_failure(tokens, texts):
    """Leaves out the texts that `tokenizers` fails on."""
    kept = []
    for text in texts:
        try:
            twin.split(text, tokens)
        except OverflowError:
            continue
        kept.append(text)
    return kept


def compare(rng, number, length=9):
    """Compares the layer, the host and the twin with `tokenizers` on random texts."""
    flags = random_flags(rng)
    backend = with_tokens(flags, add_prefix_space=rng.random() < 0.3)
    layer = TFGPT2Tokenizer.from_tokenizer(backend)
    texts = [
        "".join(rng.choices([*PIECES, *flags], k=rng.randint(0, length))) for _ in range(number)
    ]
    texts = texts_without_failure(layer.spec.added, texts)
    expected = [e.ids for e in backend.encode_batch(texts, add_special_tokens=False)]
    assert layer.tokenize(tf.constant(texts, tf.string)).to_list() == expected, flags
    assert GPT2Tokenizer.from_tokenizer(layer)(texts).input_ids == expected, flags
    for text, ids in zip(texts, expected, strict=True):
        tokens = [token.id for _, token in twin.split(text, layer.spec.added) if token is not None]
        new = [i for i in tokens if i >= len(VOCAB)]  # the others look like bytes
        assert [i for i in ids if i >= len(VOCAB)] == new, (flags, text)
    return len(texts)


def test_random_tokens():
    assert sum(compare(random.Random(seed), 80) for seed in range(25)) > 1500


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_many_random_tokens(part):
    assert sum(compare(random.Random(1000 * part + seed), 200) for seed in range(1, 80)) > 10_000


@pytest.mark.parametrize("content", ["\n", "  ", "\t ", "x"])
def test_every_combination_of_strips(content):
    """Two tokens with all flags, on all short texts of them and what may stand between."""
    pieces = ["<y>", content, " ", "\n", "b"]
    texts = ["".join(p) for n in range(4) for p in itertools.product(pieces, repeat=n)]
    choices = [(False, True)] * 4
    for lstrip, rstrip, other_lstrip, other_rstrip in itertools.product(*choices):
        flags = {
            content: {"lstrip": lstrip, "rstrip": rstrip, "normalized": False},
            "<y>": {"lstrip": other_lstrip, "rstrip": other_rstrip, "normalized": False},
        }
        backend = with_tokens(flags)
        layer = TFGPT2Tokenizer.from_tokenizer(backend)
        some = texts_without_failure(layer.spec.added, texts)
        expected = [e.ids for e in backend.encode_batch(some, add_special_tokens=False)]
        assert layer.tokenize(tf.constant(some)).to_list() == expected, flags


def test_white_space_tokens_with_lstrip():
    """Each line break is a token: only the text before it gives up its white space."""
    backend = with_tokens({"\n": {"lstrip": True, "normalized": False}})
    layer = TFGPT2Tokenizer.from_tokenizer(backend)
    newline = len(VOCAB)
    a, b = VOCAB["a"], VOCAB["b"]
    assert layer.tokenize("a \n\n b").numpy().tolist() == [a, newline, newline, VOCAB["Ġ"], b]
    assert layer.tokenize("a\n \t\nb").numpy().tolist() == [a, newline, newline, b]


def test_tokens_that_overlap_may_strip_differently():
    flags = {"<ab>": {"normalized": False}, "b><": {"lstrip": True, "normalized": False}}
    backend = with_tokens(flags)
    layer = TFGPT2Tokenizer.from_tokenizer(backend)
    texts = ["<ab><", "<a b><ab>", "< b><ab>"]
    expected = [e.ids for e in backend.encode_batch(texts)]
    assert layer.tokenize(texts).to_list() == expected


def test_single_words():
    backend = with_tokens({"cat": {"single_word": True, "normalized": False}})
    layer = TFGPT2Tokenizer.from_tokenizer(backend)
    texts = [
        "cat",
        "cat cat",
        "catcat",
        "scat",
        "cats",
        "cat's",
        "_cat",
        "cat1",
        "é-cat",
        "cat\u0301",
    ]
    expected = [e.ids for e in backend.encode_batch(texts)]
    assert layer.tokenize(texts).to_list() == expected
    assert [ids.count(len(VOCAB)) for ids in expected] == [1, 2, 0, 0, 0, 1, 0, 0, 1, 0]


def test_flags_are_saved(tmp_path):
    flags = {"cat": {"single_word": True, "lstrip": True}, "\n": {"lstrip": True, "rstrip": True}}
    layer = TFGPT2Tokenizer.from_tokenizer(with_tokens(flags))
    layer.save_pretrained(tmp_path)
    assert TFGPT2Tokenizer.from_pretrained(tmp_path).spec == layer.spec
    (tmp_path / "tokenizer.json").unlink()
    assert TFGPT2Tokenizer.from_pretrained(tmp_path).spec == layer.spec
    config = layer.get_config()
    assert TFGPT2Tokenizer.from_config(json.loads(json.dumps(config))).spec == layer.spec


def test_in_a_graph_and_in_a_saved_model(tmp_path):
    flags = {"cat": {"single_word": True}, "\n": {"lstrip": True}, "<r>": {"rstrip": True}}
    layer = TFGPT2Tokenizer.from_tokenizer(with_tokens(flags))
    module = tf.Module()
    module.layer = layer
    module.ids = tf.function(
        lambda text: layer.tokenize(text).to_tensor(-1),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    texts = ["a cat \n <r>  b", "", "cats", "<r>\n"]
    for some in (texts, [""], []):
        some = tf.constant(some, tf.string)
        expected = layer.tokenize(some).to_tensor(-1).numpy().tolist()
        assert loaded.ids(some).numpy().tolist() == expected


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
def test_every_code_point_is_a_part_of_words_or_not(step):
    backend = with_tokens({"<x>": {"single_word": True, "normalized": False}})
    some = [chr(c) for c in range(0, 0x110000, step) if not 0xD800 <= c < 0xE000]
    found = {c for c in some if backend.encode(f"<x>{c}").ids[0] != len(VOCAB)}
    assert found == twin.WORD.intersection(some)


def test_texts_that_tokenizers_fails_on():
    flags = {
        "<r>": {"rstrip": True, "normalized": False},
        "\n": {"lstrip": True, "normalized": False},
    }
    layer = TFGPT2Tokenizer.from_tokenizer(with_tokens(flags))
    host = GPT2Tokenizer.from_tokenizer(layer)
    assert host("<r>a\n").input_ids == layer.tokenize("<r>a\n").numpy().tolist()
    with pytest.raises(ValueError, match="fails on a text.*Received: texts=.*`rstrip`"):
        host("<r>\n\n a")
    with pytest.raises(ValueError, match="fails on a text"):
        host.tokenize("<r>\n\n a")
    assert layer.tokenize("<r>\n\n a").numpy()[0] == len(VOCAB)


def test_many_added_tokens():
    flags = {f"<extra_id_{i}>": {"lstrip": i % 2 == 0, "normalized": False} for i in range(2500)}
    backend = byte_level(tokenizers.models.BPE(VOCAB, []))
    backend.add_tokens([tokenizers.AddedToken(c, **values) for c, values in flags.items()])
    layer = TFGPT2Tokenizer.from_tokenizer(backend)
    text = "a <extra_id_1> b <extra_id_24><extra_id_2499>"
    assert layer.tokenize(text).numpy().tolist() == backend.encode(text).ids
