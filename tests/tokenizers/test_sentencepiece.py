"""SentencePiece families: the ids of `sentencepiece` with the rules of transformers 4."""

import functools
import unicodedata

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

from tests.support import slow_sentencepiece as slow
from tests.tokenizers.conftest import SENTENCES
from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer
from tfgpt2.tokenizers.added_tokens import AddedToken

RINNA_ROLES = {
    "bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]", "cls_token": "[CLS]",
    "sep_token": "[SEP]", "mask_token": "[MASK]",
}  # fmt: skip
TEXTS = [
    *SENTENCES, "", " ", "  two  spaces ", "tab\tnew\nline\r\n", "\u3000全角　空白\u00a0",
    "吾輩は猫である。名前はまだ無い。", "ＡＢＣ１２３ ｶﾞｷﾞ ㍿ ﬁ ½ ℂ", "ΑΣ Σ İstanbul",
    "e\u0301 e\u0327\u0301 \u1100\u1161\u11a8", "``quoted''", "9,9 1,234,", "▁ ▁▁a",
    "𠮷野家 \U0001f600 ☃", "zero\u200bwidth\u00ad\u0007", "<s>a</s> [MASK]b", "\ufeffa\0b", "١٢٣,",
]  # fmt: skip
JAPANESE = [
    "メロスは激怒した。必ず、かの邪智暴虐の王を除かなければならぬと決意した。",
    "国境の長いトンネルを抜けると雪国であった。夜の底が白くなった。",
]


@pytest.fixture(scope="module")
def rinna_model(shared_data):
    return (shared_data / "tokenizer_families/rinna_unigram/spiece.model").read_bytes()


@functools.cache
def small_model(**options):
    """A small model; one trained with `byte_fallback` has every byte."""
    defaults = {"vocab_size": 220, "hard_vocab_limit": False, "user_defined_symbols": ["<dé>"]}
    return slow.train(slow.CORPUS, **defaults | options)


CASES = {
    "plain": ("sentencepiece", {}, {}, str),
    "identity": (
        "sentencepiece",
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {},
        str,
    ),
    "no_prefix": ("sentencepiece", {"add_dummy_prefix": False}, {}, str),
    "suffix": ("sentencepiece", {"treat_whitespace_as_suffix": True}, {}, str),
    "bpe": ("sentencepiece", {"model_type": "bpe"}, {"do_lower_case": True}, slow.lower),
    "lower": ("t5", {}, {"do_lower_case": True}, slow.lower),
    "albert": (
        "albert",
        {"split_by_number": False, "split_by_unicode_script": False},
        {"do_lower_case": False, "keep_accents": True},
        slow.clean_albert,
    ),
    "albert_lower": (
        "albert",
        {},
        {},
        lambda text: slow.clean_albert(slow.lower(text), True, False),
    ),
    "gpt_sw3": (
        "gpt_sw3",
        {
            "model_type": "bpe",
            "byte_fallback": True,
            "vocab_size": 450,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
        },
        {},
        slow.clean_gpt_sw3,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A tokenizer, and the ids that it should give."""
    family, training, options, clean = CASES[request.param]
    model = small_model(**{k: v for k, v in training.items()})
    ours = TFGPT2Tokenizer(model=model, family=family, special_tokens="text", **options)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def expected(texts):
        ids = (slow.slow_ids(processor, text, clean) for text in texts)
        split = family == "albert"
        return [list(slow.split_commas(processor, row)) if split else row for row in ids]

    return ours, processor, expected


def ours_ids(tokenizer, texts):
    return tokenizer.tokenize(tf.constant(texts)).to_list()


def test_texts(case):
    ours, _, expected = case
    texts = [*TEXTS, *JAPANESE, "x<dé>y <dé>", " ".join(TEXTS)]
    assert ours_ids(ours, texts) == expected(texts)
    host = GPT2Tokenizer.from_tokenizer(ours)
    plain = [text for text in texts if "<" not in text]
    assert host(plain, add_special_tokens=False)["input_ids"] == expected(plain)


def test_pieces_with_a_comma_are_there():
    family, training, options, _ = CASES["albert"]
    ours = TFGPT2Tokenizer(model=small_model(**training), family=family, **options)
    assert len(ours.spec.expansions()) > 3


CONTEXTS = "a{}b {} {}x\u0301{}"
BY_PYTHON = ("albert_lower", "gpt_sw3")  # their oracle normalizes with Python's Unicode
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def batches(code_points):
    for start in range(0, len(code_points), 65536):
        yield [CONTEXTS.format(*[chr(c)] * 4) for c in code_points[start : start + 65536]]


def compare_code_points(case, code_points):
    ours, processor, expected = case
    for texts in batches(code_points):
        slow.assert_same_ids(processor, ours_ids(ours, texts), expected(texts))
    return len(code_points)


def test_code_points_sampled(case):
    assert compare_code_points(case, CODE_POINTS[::997]) > 1_100


@pytest.mark.long
def test_every_code_point(case, request, figure):
    """Characters that came after Python's Unicode have other classes and compositions here."""
    name = request.node.callspec.params["case"]
    later = [c for c in CODE_POINTS if unicodedata.category(chr(c)) == "Cn"]
    if name not in BY_PYTHON:
        assert compare_code_points(case, CODE_POINTS) == 1_112_064
        return
    known = sorted({*CODE_POINTS} - {*later})
    assert compare_code_points(case, known) == 1_112_064 - len(later)
    ours, _, expected = case
    different = 0
    for texts in batches(later):
        pairs = zip(ours_ids(ours, texts), expected(texts), strict=True)
        different += sum(one != other for one, other in pairs)
    figure(f"later code points with other ids: {name}", different)
    assert different < 200


ALPHABET = (
    " \u3000\u00a0\t\n▁aAbzé\u0301\u0327ΣσİﬁＡ１½ｶﾞ日本語9,`'<>s/\u200b\u00ad\u0001\ufeff\U0001f600"
)


@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(texts=st.lists(st.text(alphabet=st.one_of(
    st.sampled_from(ALPHABET), st.characters(max_codepoint=0x2FFFF, exclude_categories=["Cs", "Cn"])
)), min_size=1, max_size=30))  # fmt: skip
def test_any_text(case, texts):
    ours, _, expected = case
    assert ours_ids(ours, texts) == expected(texts)


@pytest.mark.long
def test_a_million_texts(case):
    ours, processor, expected = case
    random = np.random.default_rng(0)
    alphabet = np.array(list(ALPHABET + "".join(SENTENCES)))
    for _ in range(10):
        letters = "".join(random.choice(alphabet, 1_200_000))
        cuts = np.sort(random.integers(0, len(letters), 100_000))
        texts = [letters[a:b] for a, b in zip(cuts, [*cuts[1:], len(letters)], strict=True)]
        slow.assert_same_ids(processor, ours_ids(ours, texts), expected(texts), ties=200)


def test_decoding(case):
    ours, processor, _ = case
    size = len(ours.spec.vocab)
    random = np.random.default_rng(1)
    rows = [random.integers(0, size, random.integers(0, 9)).tolist() for _ in range(400)]
    spaces = [i for i in range(size) if processor.id_to_piece(i).strip("▁") == ""]
    rows += [[*random.choice(spaces, 2), i] for i in range(0, size, 7) if spaces]
    rows += [[ours.spec.unknown_id, i] for i in range(0, size, 11)]
    # Control pieces are not special tokens here, and bytes that are no UTF-8 are ours to replace.
    rows = [[int(i) for i in row] for row in rows]
    expected = [processor.decode(row) for row in rows]
    rows, expected = zip(
        *[pair for pair in zip(rows, expected, strict=True) if "\ufffd" not in pair[1]], strict=True
    )
    assert len(rows) > 200
    got = ours.detokenize(tf.ragged.constant(rows, tf.int32)).numpy()
    assert [text.decode() for text in got] == list(expected)
    host = GPT2Tokenizer.from_tokenizer(ours)
    assert [host.decode(row) for row in rows] == list(expected)
    # What tokens write after other text does not depend on the text.
    raw = ours.detokenize_bytes(tf.ragged.constant(rows, tf.int32)).numpy().tolist()
    assert raw == [b"".join(ours.token_bytes[i] for i in row) for row in rows]


@pytest.fixture(scope="module")
def rinna(rinna_model):
    return TFGPT2Tokenizer(model=rinna_model, family="t5", do_lower_case=True, **RINNA_ROLES)


@pytest.fixture(scope="module")
def rinna_reference(rinna_model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=rinna_model)
    special = [*RINNA_ROLES.values(), "<unk>"]
    return processor, lambda text: slow.slow_ids(processor, text, slow.lower, special)


def test_rinna(rinna, rinna_reference):
    processor, expected = rinna_reference
    texts = [*TEXTS, *JAPANESE, "<s>[CLS] A[SEP]</s></s> [PAD]", "<unk>?", "</S>"]
    assert ours_ids(rinna, texts) == list(map(expected, texts))
    host = GPT2Tokenizer.from_tokenizer(rinna)
    assert host(texts, add_special_tokens=False)["input_ids"] == list(map(expected, texts))
    assert rinna.tokenize("猫").numpy().tolist() == [9, 4324]
    assert rinna(["猫", ""])["input_ids"].numpy().tolist() == [[9, 4324, 2], [2, 3, 3]]
    assert rinna.tokenize_prompts(tf.constant(["猫", ""])).to_list() == [[9, 4324], []]
    assert (rinna.unk_token_id, rinna.eos_token_id, rinna.pad_token_id) == (0, 2, 3)
    assert rinna.detokenize([0, 9, 4324, 2]).numpy().decode() == " ⁇  猫</s>"


def test_rinna_on_wikitext(rinna, rinna_reference, shared_data):
    processor, expected = rinna_reference
    lines = (shared_data / "text/wiki.test.raw").read_text(encoding="utf-8").split("\n")[:1500]
    slow.assert_same_ids(processor, ours_ids(rinna, lines), list(map(expected, lines)), ties=1)


def test_rinna_on_its_own_pieces(rinna, rinna_reference):
    processor, expected = rinna_reference
    random = np.random.default_rng(2)
    pieces = [processor.id_to_piece(i).replace("▁", " ") for i in range(7, 32000)]
    texts = ["".join(random.choice(pieces, random.integers(1, 60))) for _ in range(100)]
    slow.assert_same_ids(processor, ours_ids(rinna, texts), list(map(expected, texts)), ties=1)


@pytest.mark.long
def test_rinna_on_every_code_point(rinna, rinna_reference):
    processor, expected = rinna_reference
    case = rinna, processor, lambda texts: list(map(expected, texts))
    assert compare_code_points(case, CODE_POINTS) == 1_112_064


def test_special_tokens_and_the_space_beside_them(rinna_model):
    tokens = [
        AddedToken("<x>", 32000, rstrip=True, lstrip=True),
        AddedToken("wörd", 32001, single_word=True),
    ]
    ours = TFGPT2Tokenizer(model=rinna_model, family="t5", added_tokens=tokens)
    host = GPT2Tokenizer.from_tokenizer(ours)
    cases = {
        "a <x> b": ["a", 32000, "b"], "wörd wörds": [32001, " wörds"], "<x>": [32000],
        "<x> <x>": [32000, 32000],
    }  # fmt: skip
    for text, parts in cases.items():
        alone = [[p] if isinstance(p, int) else ours.tokenize(p).numpy().tolist() for p in parts]
        assert ours.tokenize(text).numpy().tolist() == sum(alone, [])
        assert host(text, add_special_tokens=False)["input_ids"] == sum(alone, [])


def test_offsets(rinna, rinna_model):
    host = GPT2Tokenizer.from_tokenizer(rinna)
    text = "猫と Ａの x<s>  ﬁ"
    row = host(text, return_offsets_mapping=True, add_special_tokens=False)
    spans = [text[a:b] for a, b in row["offset_mapping"]]
    assert "".join(spans).replace(" ", "") == text.replace(" ", "") and "<s>" in spans
    albert = TFGPT2Tokenizer(model=rinna_model, family="albert", keep_accents=True)
    host = GPT2Tokenizer.from_tokenizer(albert)
    text = "  猫\n\n ``犬''  "
    row = host(text, return_offsets_mapping=True, add_special_tokens=False)
    spans = [text[start:end].strip() for start, end in row["offset_mapping"]]
    assert {"猫", "犬"} <= set(spans) and {"``", "''"} <= set(spans)
