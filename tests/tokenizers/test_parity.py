"""The ids are those of `tokenizers` and of `tiktoken`, whatever the text."""

import hypothesis
import hypothesis.strategies as st
import pytest
import tensorflow as tf
import tokenizers

from tfgpt2 import TFGPT2Tokenizer
from tfgpt2.tokenizers import unicode_classes as classes

SEPARATOR = "\n__ggml_vocab_test__\n"
SEVERAL = hypothesis.settings(max_examples=60, deadline=None)

NASTY = [
    "",
    " ",
    "  ",
    "\n\n\n",
    " \n \n",
    "a\n\n\nb",
    "a \n\n b",
    "a\u00a0\u00a0b",
    "\u3000\u3000x",
    "a\x85\x85b",
    "\x1c\x1d\x1e\x1f x",
    "\ufeffa",
    "a\x00b",
    "\x00\x00",
    " \x00 ",
    "can't won't I'LL we'Ve it''s 's 't",
    "'s's 's' ' s",
    "x'd'x ''d",
    "١٢٣ ½ ⅷ ² 12three",
    "e\u0301 n\u0303",
    "👩‍👩‍👧‍👦 🇩🇪 ✌🏿",
    "日本語のテキスト。 한국어",
    "\U0010ffff\uffff\ufffe",
    "\u2028\u2029\u200b\u200d",
    "<|endoftext|>",
    "a" * 3000,
    " " * 3000 + "a",
    "ab" * 1500,
    "\t\tif x:\r\n\t\t\treturn  -1\r\n",
    "http://a.b/c?d=e&f#g",
    "ﷺ",
    "𝕳𝖊𝖑𝖑𝖔",
]


def ours(tokenizer, texts):
    return tokenizer.tokenize(tf.constant(texts, tf.string)).to_list()


def theirs(hf, texts):
    return [item.ids for item in hf.encode_batch(texts, add_special_tokens=False)]


def test_the_reference_is_the_real_vocabulary(gpt2):
    assert gpt2.tokenize("Hello world").numpy().tolist() == [15496, 995]
    assert gpt2.vocab_size == 50257


def test_ggml_cases(shared_data, gpt2_plain, hf, tt):
    stem = shared_data / "tokenizer" / "ggml-vocab-gpt-2.gguf"
    texts = stem.with_name(stem.name + ".inp").read_text(encoding="utf-8").split(SEPARATOR)
    wanted = stem.with_name(stem.name + ".out").read_text(encoding="utf-8").split("\n")
    wanted = [[int(i) for i in line.split()] for line in wanted[: len(texts)]]
    assert len(texts) >= 46
    assert ours(gpt2_plain, texts) == wanted
    assert theirs(hf, texts) == wanted
    assert [tt.encode_ordinary(text) for text in texts] == wanted


def test_nasty_strings(gpt2_plain, hf, tt):
    got = ours(gpt2_plain, NASTY)
    assert got == theirs(hf, NASTY)
    assert got == [tt.encode_ordinary(text) for text in NASTY]


def test_wikitext(shared_data, gpt2_plain, hf, tt):
    text = (shared_data / "text" / "wiki.test.raw").read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    got = ours(gpt2_plain, lines)
    assert sum(map(len, got)) > 250_000
    assert got == theirs(hf, lines)
    assert got == [tt.encode_ordinary(line) for line in lines]
    # As one text the runs of blank lines count.
    assert ours(gpt2_plain, [text]) == [tt.encode_ordinary(text)]


# A code point counts as letter, number, space or other; these contexts tell the four apart on
# either side, with and without a space.
CONTEXTS = ["a{}b", "1{}2", "!{}!", " {}", "  {}  {}x", "{}'s"]


def code_points(step):
    return [c for c in range(0, 0x110000, step) if not 0xD800 <= c < 0xE000]


def compare_code_points(gpt2_plain, hf, tt, step):
    every = code_points(step)
    for start in range(0, len(every), 65536):
        some = [chr(c) for c in every[start : start + 65536]]
        # One row holds many cases; a word and a line end stand between them, as borders.
        cases = ["; ".join(context.format(c, c) for context in CONTEXTS) for c in some]
        rows = ["\nNEXT ".join(cases[i : i + 64]) for i in range(0, len(cases), 64)]
        got = ours(gpt2_plain, rows)
        assert got == theirs(hf, rows)
        assert got == tt.encode_ordinary_batch(rows, num_threads=1)
    return len(every)


def test_code_points_sampled(gpt2_plain, hf, tt):
    assert compare_code_points(gpt2_plain, hf, tt, step=101) > 11_000


@pytest.mark.long
def test_every_code_point(gpt2_plain, hf, tt):
    assert compare_code_points(gpt2_plain, hf, tt, step=1) == 1_112_064


@pytest.mark.parametrize(
    ("pattern", "table"),
    [(r"\p{L}", "LETTERS"), (r"\p{N}", "NUMBERS"), (r"\s", "WHITE_SPACE")],
)
def test_every_code_point_has_the_class_that_tiktoken_gives_it(pattern, table):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([i]): i for i in range(256)}
    # What the pattern does not match, `tiktoken` leaves out.
    reference = tiktoken.Encoding(
        pattern, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
    )
    every = "".join(chr(c) for c in code_points(1))
    inside = classes.character_class(getattr(classes, table))
    got = tf.strings.regex_replace(tf.constant(every), f"[^{inside}]+", "").numpy()
    assert got == reference.decode_bytes(reference.encode_ordinary(every))


@pytest.fixture(scope="module")
def latest_letters():
    # Letters of Unicode 15.1 and 16, which the RE2 of TF 2.21 takes for unassigned.
    return ["a\u1c89b", "x\U0002ebf0y", "\U00013460z", "\U00010d40"]


def test_letters_that_the_regex_engine_does_not_know(gpt2_plain, hf, tt, latest_letters):
    got = ours(gpt2_plain, latest_letters)
    assert got == theirs(hf, latest_letters)
    assert got == [tt.encode_ordinary(text) for text in latest_letters]


@SEVERAL
@hypothesis.given(texts=st.lists(st.text(), min_size=1, max_size=20))
def test_any_text(gpt2_plain, hf, tt, texts):
    got = ours(gpt2_plain, texts)
    assert got == theirs(hf, texts)
    assert got == [tt.encode_ordinary(text) for text in texts]


@SEVERAL
@hypothesis.given(
    texts=st.lists(st.text(alphabet=" \n\t\u00a0\u2003aZé9½'stredvml.!日"), min_size=1, max_size=30)
)
def test_text_where_the_pattern_matters(gpt2_plain, hf, tt, texts):
    got = ours(gpt2_plain, texts)
    assert got == theirs(hf, texts)
    assert got == [tt.encode_ordinary(text) for text in texts]


@SEVERAL
@hypothesis.given(texts=st.lists(st.binary(), min_size=1, max_size=20))
def test_any_bytes(gpt2_plain, hf, texts):
    decoded = [text.decode("utf-8", errors="replace") for text in texts]
    assert ours(gpt2_plain, texts) == theirs(hf, decoded)


@SEVERAL
@hypothesis.given(
    texts=st.lists(
        st.lists(
            st.sampled_from([*range(0x80, 0x100, 7), 0xE0, 0xED, 0xF0, 0xF4, 0x9F, 0xA0, 0x90, 65])
        ).map(bytes),
        min_size=1,
        max_size=50,
    )
)
def test_invalid_utf8_becomes_what_python_makes_of_it(toy, texts):
    got = [text.decode() for text in toy.detokenize(toy.tokenize(tf.constant(texts))).numpy()]
    assert got == [text.decode("utf-8", errors="replace") for text in texts]


def test_every_pair_of_bytes_becomes_what_python_makes_of_it(toy):
    ids = [
        toy.token_to_id(toy.get_vocabulary()[toy.token_bytes.index(bytes([b]))]) for b in range(256)
    ]
    rows = [[ids[a], ids[b]] for a in range(256) for b in range(256)]
    got = toy.detokenize(tf.constant(rows)).numpy().tolist()
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    assert toy.detokenize_bytes(tf.constant(rows)).numpy().tolist() == pairs
    assert got == [pair.decode("utf-8", errors="replace").encode() for pair in pairs]


@pytest.mark.long
@SEVERAL
@hypothesis.given(ids=st.lists(st.lists(st.integers(0, 50255), max_size=12), min_size=1))
def test_decoding_agrees(gpt2, hf, ids):
    got = [text.decode() for text in gpt2.detokenize(tf.ragged.constant(ids, tf.int32)).numpy()]
    assert got == hf.decode_batch(ids)


def test_a_vocabulary_without_merges(shared_data):
    folder = shared_data / "checkpoints" / "slm4096"
    tokenizer = TFGPT2Tokenizer.from_pretrained(folder)
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    corpus = (folder / "corpus.txt").read_text(encoding="utf-8")
    texts = [corpus, "The cat é sat\ton 9 mats!", "", "zJKN", "ÿ", "a\U0001f600b", *NASTY]
    assert ours(tokenizer, texts) == theirs(backend, texts)
    assert tokenizer.detokenize(tokenizer.tokenize(corpus)).numpy().decode() == corpus


@pytest.mark.long
def test_a_freshly_trained_vocabulary(shared_data):
    text = (shared_data / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text], trainer)
    tokenizer = TFGPT2Tokenizer.from_tokenizer(backend)
    lines = text.splitlines(keepends=True)
    assert ours(tokenizer, [*lines, text, *NASTY]) == theirs(backend, [*lines, text, *NASTY])
    assert tokenizer.detokenize(tokenizer.tokenize(text)).numpy().decode() == text
