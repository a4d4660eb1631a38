"""Special tokens inside a text give what `tokenizers` gives."""

import json

import hypothesis
import hypothesis.strategies as st
import pytest
import tensorflow as tf
import tokenizers

from tfgpt2 import TFGPT2Tokenizer

EOT = "<|endoftext|>"
TEXTS = [
    EOT,
    EOT * 3,
    f"a{EOT}b",
    f"a {EOT} b",
    f"a  {EOT}  b",
    f"a \n\n {EOT} \n\n b",
    f" {EOT} ",
    f"{EOT} {EOT}",
    f"x{EOT[:-1]}y{EOT[1:]}",
    f"<{EOT}>",
    "<|endof text|>",
    "[PAD][SEP] [SEP] a[PAD",
    "a <tab> b <tab><both>  c  <both>  d\u00a0<left>\u3000<right> e",
    "<l><left><ll>",
    "日<both>本\u2003<right>\u2003語",
    "",
]


def added(content, **flags):
    return tokenizers.AddedToken(content, **({"normalized": False, "special": True} | flags))


@pytest.fixture(scope="module")
def backends(toy_backend):
    """Sets of added tokens, as `tokenizers` holds them."""
    sets = {
        "one": [added(EOT)],
        "several": [added(EOT), added("[PAD]"), added("[SEP]"), added("<|end"), added("<")],
        "strip": [
            added("<left>", lstrip=True),
            added("<right>", rstrip=True),
            added("<both>", lstrip=True, rstrip=True),
            added("<tab>", special=False),
        ],
        "two passes": [added(EOT), added("<|", normalized=True), added("oft", normalized=True)],
        "characters of regular expressions": [added(r"a.*[b]|(c)\d^$"), added("é\x00{2}+?-")],
    }
    result = {}
    for name, tokens in sets.items():
        result[name] = tokenizers.Tokenizer.from_str(toy_backend.to_str())
        for token in tokens:
            result[name].add_tokens([token])
    return result


NAMES = ["one", "several", "strip", "two passes", "characters of regular expressions"]


def same(backend, texts, **options):
    tokenizer = TFGPT2Tokenizer.from_tokenizer(backend, **options)
    got = tokenizer.tokenize(tf.constant(texts)).to_list()
    assert got == [backend.encode(text, add_special_tokens=False).ids for text in texts]
    return tokenizer


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_inside_text(backends, name):
    texts = [*TEXTS, r"xa.*[b]|(c)\d^$ é", "é\x00{2}+?- aa", r"a.b\d"]
    tokenizer = same(backends[name], texts)
    ids = tokenizer.tokenize(texts)
    for skip in (False, True):
        texts = [backends[name].decode(row, skip_special_tokens=skip) for row in ids.to_list()]
        assert [t.decode() for t in tokenizer.detokenize(ids, skip).numpy()] == texts


@pytest.mark.parametrize("name", ["one", "several", "strip", "two passes"])
@hypothesis.settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_special_tokens_in_random_text(backends, name, data):
    pieces = [
        EOT,
        "<|",
        "end",
        "<left>",
        "<right>",
        "<both>",
        "[PAD]",
        " ",
        "\n",
        "\u3000",
        "a",
        "'s",
    ]
    text = st.lists(st.sampled_from(pieces), max_size=12).map("".join)
    same(backends[name], data.draw(st.lists(text, min_size=1, max_size=40)))


def test_special_tokens_read_as_text(toy_backend):
    plain = TFGPT2Tokenizer.from_tokenizer(toy_backend, special_tokens="text")
    text = f"a {EOT} b"
    assert plain.eos_token_id not in plain.tokenize(text).numpy()
    assert plain.detokenize(plain.tokenize(text)).numpy().decode() == text
    assert plain.eos_token_id == 0


@pytest.mark.parametrize("name", ["one", "several"])
def test_prefix_space(backends, name):
    data = json.loads(backends[name].to_str())
    data["pre_tokenizer"]["add_prefix_space"] = True
    backend = tokenizers.Tokenizer.from_str(json.dumps(data))
    tokenizer = same(backend, [*TEXTS, "a", " a", "\na", "\u3000a"])
    assert tokenizer.spec.add_prefix_space
    same(backends["one"], ["a", " b"], add_prefix_space=False)


def test_skipping_special_tokens(toy):
    ids = toy.tokenize([f"a{EOT}b", EOT])
    assert toy.detokenize(ids, skip_special_tokens=True).numpy().tolist() == [b"ab", b""]
    assert toy.detokenize(ids).numpy().tolist() == [f"a{EOT}b".encode(), EOT.encode()]
    dense = ids.to_tensor(toy.vocab_size + 5)
    assert toy.detokenize(dense, skip_special_tokens=True).numpy().tolist() == [b"ab", b""]
    assert toy.detokenize(dense[0], skip_special_tokens=True).numpy() == b"ab"


def test_added_tokens_that_are_not_special_stay(backends):
    tokenizer = TFGPT2Tokenizer.from_tokenizer(backends["strip"])
    ids = tokenizer.tokenize("a<tab><both>")
    assert tokenizer.detokenize(ids, skip_special_tokens=True).numpy() == b"a<tab>"


def test_added_tokens_decode_to_their_own_text(toy_backend):
    # `tokenizers` reads an added "é" as the byte 0xE9 and decodes it to U+FFFD.
    backend = tokenizers.Tokenizer.from_str(toy_backend.to_str())
    backend.add_tokens([added("é")])
    tokenizer = TFGPT2Tokenizer.from_tokenizer(backend)
    assert tokenizer.detokenize(tokenizer.tokenize("aéb")).numpy().decode() == "aéb"


def test_new_roles_get_the_next_free_id(toy_backend):
    tokenizer = TFGPT2Tokenizer.from_tokenizer(
        toy_backend, pad_token="[PAD]", additional_special_tokens=["<a>", "<b>"]
    )
    size = toy_backend.get_vocab_size()
    assert tokenizer.pad_token_id == size
    assert tokenizer.vocab_size == size + 3
    assert tokenizer.tokenize("<b>[PAD]<a>").numpy().tolist() == [size + 2, size, size + 1]
    assert tokenizer.spec.backend().encode("<b>[PAD]<a>").ids == [size + 2, size, size + 1]
