"""WordPiece: the ids of `tokenizers`, whatever the text and the options."""

import pytest
import tensorflow as tf

from tests.support.tokenizer_texts import (
    NASTY,
    all_code_points,
    batches,
    count_differences,
    fuzzed_texts,
)
from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer
from tfgpt2.tokenizers.wordpiece import WordPieceSpec

WORDS = (
    "the quick brown fox jump ##ed ##s over un ##aff ##able 你 好 世 界 , . ! ? ' - a b c d e ##f e"
)
LETTERS = "abcdefghijklmnopqrstuvwxyzäéñα你好世界ABIİıßé"
VOCAB = {
    token: i
    for i, token in enumerate(
        dict.fromkeys(
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), *LETTERS]
            + [f"##{letter}" for letter in LETTERS]
            + ["\u2028x", "i\u0307", "각", "\u1100", "\u302e", "c" * 101]
        )
    )
}
OPTIONS = [
    {},
    {"do_lower_case": False},
    {"do_lower_case": False, "strip_accents": True},
    {"strip_accents": False, "tokenize_chinese_chars": False},
    {"clean_text": False, "tokenize_chinese_chars": False},
]


def make(**options):
    return TFGPT2Tokenizer(VOCAB, family="wordpiece", **options)


@pytest.mark.parametrize("options", OPTIONS)
def test_ids_are_those_of_tokenizers(options):
    assert count_differences(make(**options), NASTY) == (0, [])


@pytest.mark.parametrize("options", OPTIONS)
def test_fuzz(options):
    texts = list(fuzzed_texts(3000, 7, [*WORDS.split(), "\u302e", "\U0001d165", "\u0334"]))
    assert count_differences(make(**options), texts) == (0, [])


def test_neighbouring_marks_are_sorted():
    """Marks that decomposition sorts and that are not removed, in any order."""
    layer = make()
    texts = [f"a{x}{y}{z}" for x in "\u302e\U0001d165\u0334" for y in "\U0001d165\u302e\x07"
             for z in "\u302f\U0001d16d\u302e"]  # fmt: skip
    vocabulary = VOCAB | {f"##{mark}": len(VOCAB) + i for i, mark in enumerate(
        "\u302e\u302f\U0001d165\U0001d16d")}  # fmt: skip
    layer = TFGPT2Tokenizer(vocabulary, family="wordpiece")
    assert layer.tokenize(["a\u302e\U0001d165"]).to_list() == layer.tokenize(
        ["a\U0001d165\u302e"]).to_list()  # fmt: skip
    assert count_differences(layer, texts) == (0, [])
    # Marks at the beginning of a text do not mix with those at the end of the one before.
    assert count_differences(layer, ["a\u302e", "\U0001d165b", "\u302e"]) == (0, [])


def test_words_of_a_hundred_characters():
    layer = make()
    for text in ("a" * 100, "a" * 101, "é" * 100, "é" * 101, "c" * 101):
        assert (layer.tokenize(text).numpy().tolist() == [1]) is (len(text) > 100)
    short = make(max_input_chars_per_word=4)  # fewer than "[UNK]" has
    assert count_differences(short, ["abcd abcde", "fox", "ab quick over"]) == (0, [])


def test_invalid_utf8_counts_as_the_replacement_character():
    assert make().tokenize([b"a\xffb \xff"]).to_list() == make().tokenize(["ab"]).to_list()
    ids = make(clean_text=False).tokenize([b"a \xff"]).to_list()
    assert ids == [[VOCAB["a"], VOCAB["[UNK]"]]]


@pytest.mark.parametrize("lower", [True, False])
def test_added_tokens(lower):
    """Special ones before the normalizer, others after it; one holds spaces."""
    host = GPT2Tokenizer.from_tokenizer(make(do_lower_case=lower))
    host.add_tokens(["New York", "Fox", "世界", "É"])
    host.add_special_tokens({"additional_special_tokens": ["<Big Deal>", "!!"]})
    layer = TFGPT2Tokenizer.from_tokenizer(host)
    texts = [
        "the New York fox", "new york FOX Foxes", "<Big Deal><big deal>!!!", "a世界b 好世 界",
        "é É e\u0301", "[CLS]New York[SEP] [unk]", *NASTY,
    ]  # fmt: skip
    assert count_differences(layer, texts, host.backend_tokenizer) == (0, [])
    text = TFGPT2Tokenizer.from_tokenizer(host, special_tokens="text")
    assert text.tokenize("[CLS]").numpy().tolist() != [VOCAB["[CLS]"]]
    host.split_special_tokens = True
    layer = TFGPT2Tokenizer.from_tokenizer(host)
    expected = host(texts, add_special_tokens=False)["input_ids"]
    assert layer.tokenize(texts).to_list() == expected
    assert (
        VOCAB["[CLS]"] not in expected[5] and host.convert_tokens_to_ids("New York") in expected[5]
    )


def test_groups_graphs_and_datasets():
    layer = make(template={"prefix": ["[CLS]"], "suffix": ["[SEP]"]})
    texts = ["the quick fox", "", "unaffable!"]
    expected = layer.spec.backend().encode_batch(texts)
    data = tf.data.Dataset.from_tensor_slices(texts).batch(3).map(layer)
    batch = next(iter(data))
    rows = [r[: sum(m)] for r, m in zip(*(batch[k].numpy().tolist() for k in batch), strict=True)]
    assert rows == [one.ids for one in expected]
    assert layer([["a", "b"], ["c", "d"]])["input_ids"].shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("text", "plain", "spaced"),
    [
        ("你好, 世界!", "你好,世界!", "你 好, 世 界!"),
        ("the quick fox jumped.", "the quick fox jumped.", "the quick fox jumped."),
        ("a你b", "a你 b", "a 你 b"),
        ("unaffable - don't", "unaffable - don ' t", "unaffable - don ' t"),
    ],
)
def test_text_from_ids(text, plain, spaced):
    for spaces, expected in ((False, plain), (True, spaced)):
        layer = make(spaces_between_cjk=spaces)
        ids = layer.tokenize([text])
        host = GPT2Tokenizer.from_tokenizer(layer)
        assert layer.detokenize(ids).numpy()[0].decode() == expected
        assert host.decode(ids[0].numpy()) == expected
    assert layer.spec.backend().decode(ids[0].numpy().tolist()) == spaced


@pytest.mark.long
def test_text_of_every_kind_is_that_of_tokenizers_where_words_are_spaced():
    layer = make(spaces_between_cjk=True)
    backend = layer.spec.backend()
    for text in fuzzed_texts(300, 3, WORDS.split()):
        ids = [i for i in backend.encode(text).ids if i > 4]  # no special tokens
        if ids and not layer.id_to_token(ids[0]).startswith("##"):
            assert layer.detokenize([ids]).numpy()[0].decode() == backend.decode(ids)


def test_bytes_of_tokens_are_those_after_other_text():
    layer = make()
    table = layer.token_bytes
    assert [table[VOCAB[t]] for t in ("fox", "##ed", "你", ",", "-", "[SEP]")] == [
        b" fox", b"ed", "你".encode(), b",", b" -", b"[SEP]"]  # fmt: skip
    ids = layer.tokenize("the fox jumped, 你好")
    assert layer.detokenize_bytes(ids).numpy() == " the fox jumped,你好".encode()
    assert layer.detokenize(ids).numpy() == "the fox jumped,你好".encode()


def test_offsets_on_the_host():
    host = GPT2Tokenizer.from_tokenizer(make())
    text = "The FOX 你好 jumped"
    row = host(text, return_offsets_mapping=True, add_special_tokens=False)
    assert [text[a:b] for a, b in row.offset_mapping] == ["The", "FOX", "你", "好", "jump", "ed"]


def test_a_vocabulary_without_the_unknown_token():
    with pytest.raises(
        ValueError, match=r"cannot spell, in its vocabulary.*unk_token='\[UNK\]'|None"
    ):
        TFGPT2Tokenizer({"a": 0}, family="wordpiece")
    with pytest.raises(ValueError, match="`strip_accents` must be True, False or None"):
        make(strip_accents="no")
    with pytest.raises(ValueError, match="`max_input_chars_per_word` must be an integer"):
        make(max_input_chars_per_word=0)
    assert WordPieceSpec.create({"?": 0}, roles={"unk_token": "?"}).roles == {"unk_token": "?"}


@pytest.fixture(scope="module")
def chinese(shared_data):
    folder = shared_data / "tokenizer_families" / "gpt2_chinese_wordpiece"
    return TFGPT2Tokenizer.from_pretrained(folder, do_lower_case=False)


def test_the_real_chinese_vocabulary(chinese, shared_data):
    """21,128 lines; one holds U+2028, at which `str.splitlines` would split."""
    assert (chinese.vocab_size, chinese.token_to_id("##\u2028")) == (21128, 13502)
    page = shared_data.parent / "reference" / "gpt2_page_zh.txt"
    if page.exists():
        lines = page.read_text(encoding="utf-8").split("\n")
        assert count_differences(chinese, [line for line in lines[:400] if line]) == (0, [])
    assert count_differences(chinese, NASTY) == (0, [])
    assert chinese.spec.template.prefix == ("[CLS]",) and chinese.eos_token_id == 102


@pytest.mark.long
@pytest.mark.parametrize(
    "options", [{"do_lower_case": False}, {"do_lower_case": True}, *OPTIONS[2:]]
)
def test_every_code_point_in_context(chinese, options):
    layer = TFGPT2Tokenizer.from_tokenizer(
        chinese, **{k: v for k, v in options.items() if k != "clean_text"}
    )
    backend = layer.spec.backend()
    texts = (f"a{c}b 好{c} {c}" for c in all_code_points())
    assert [count_differences(layer, part, backend) for part in batches(texts)] == [(0, [])] * 23


@pytest.mark.long
@pytest.mark.parametrize("lower", [True, False])
def test_a_million_fuzzed_texts(chinese, lower):
    layer = TFGPT2Tokenizer.from_tokenizer(chinese, do_lower_case=lower)
    backend = layer.spec.backend()
    texts = fuzzed_texts(500_000, 11 + lower, [*WORDS.split(), "\u302e", "\U0001d165", "\u0334"])
    assert [count_differences(layer, part, backend) for part in batches(texts)] == [(0, [])] * 10


@pytest.mark.long
def test_whole_texts(chinese, shared_data):
    paths = ["text/tinyshakespeare.txt", "text/wiki.test.raw", "../reference/gpt2_page_zh.txt"]
    for path in paths:
        if (shared_data / path).exists():
            text = (shared_data / path).read_text(encoding="utf-8")
            assert count_differences(chinese, [text, *text.split("\n")]) == (0, [])
