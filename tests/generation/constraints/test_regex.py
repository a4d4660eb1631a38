"""DFAs of patterns against Python's `re`."""

import re
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.dfa_walks import random_texts
from tfgpt2.generation.constraints.byte_dfa import ByteDFA, complement, intersection, minimize
from tfgpt2.generation.constraints.byte_nfa import compile_expression
from tfgpt2.generation.constraints.expressions import Alternation, Compiled
from tfgpt2.generation.constraints.regex import compile_regex, parse_regex

LETTERS = "abcABC019_ -.\n\té€ßıKſ😀٣"  # with the Kelvin sign, a long s and an Arabic digit
ATOMS = [
    *map(re.escape, LETTERS), ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[a-c]", "[^a-c]",
    r"[\dx]", r"[^\w ]", r"[^\Wa]", "[é-€]", "[^é-€]", "[a\u0100-\U0001f680]", r"\x41", r"[\s\S]",
    "(?:)", r"[A-b]", "[\U0001f600-\U0010ffff]",
]  # fmt: skip
REPEATS = ["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "{2,}", "{,2}"]


def compose(inner):
    return st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(REPEATS)).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        inner.map(lambda part: f"({part})"),
        inner.map(lambda part: f"(?i:{part})"),
        inner.map(lambda part: f"(?s:{part})"),
        inner.map(lambda part: f"(?P<n>{part})"),
    )


PATTERNS = st.recursive(st.sampled_from(ATOMS), compose, max_leaves=6).filter(
    lambda pattern: pattern.count("(?P<n>") < 2
)
FLAGS = st.sampled_from(["(?u)", "(?a)", "(?ui)", "(?ai)", "(?us)"])
TEXTS = st.lists(st.text(alphabet=LETTERS, max_size=5), min_size=6, max_size=6)
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(PATTERNS, FLAGS, TEXTS, st.integers(0, 2**31))
@example(r"(?i:K)[^k]", "(?u)", ["kK", "K"], 0)
def test_same_language_as_re(pattern, flags, texts, seed):
    check_against_re(pattern, flags, texts, seed)


@pytest.mark.long
@settings(QUICK, max_examples=1000)
@given(PATTERNS, FLAGS, TEXTS, st.integers(0, 2**31))
def test_same_language_as_re_for_many_patterns(pattern, flags, texts, seed):
    check_against_re(pattern, flags, texts, seed)


def check_against_re(pattern, flags, texts, seed):
    pattern = flags + pattern
    expected, dfa = re.compile(pattern), compile_regex(pattern)
    for text in texts:
        assert dfa.matches(text) == bool(expected.fullmatch(text)), text
    if dfa.accepting.any():
        for text in random_texts(dfa, seed, 5, longest=12):
            assert expected.fullmatch(text.decode()), text


@QUICK
@given(PATTERNS, TEXTS, st.integers(0, 2**31))
def test_without_a_flag_texts_match_in_ascii_and_unicode_mode(pattern, texts, seed):
    unicode_mode, ascii_mode = re.compile(pattern), re.compile(pattern, re.ASCII)
    dfa = compile_regex(pattern)
    written = random_texts(dfa, seed, 5, 12) if dfa.accepting.any() else []
    for text in [*(one.decode() for one in written), *texts]:
        if dfa.matches(text):
            assert unicode_mode.fullmatch(text), text
            assert "(?i" in pattern or ascii_mode.fullmatch(text), text
        elif text.isascii():
            assert not unicode_mode.fullmatch(text), text


@pytest.mark.long
@settings(QUICK, max_examples=60)
@given(st.data(), PATTERNS)
def test_texts_that_hypothesis_generates_are_accepted(data, pattern):
    pattern = "(?u)" + pattern
    text = data.draw(st.from_regex(re.compile(pattern), fullmatch=True))
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert compile_regex(pattern).matches(text)


@pytest.mark.parametrize(("pattern", "inside", "outside"), [
    (r"^\d{4}-\d{2}$", ["2024-01"], ["2024-1", "x2024-01", "2024-01\n", "٢٠٢٤-٠١"]),
    (r"\A(?:yes|no)\Z", ["yes", "no"], ["", "yesno"]),
    (r"^a$|^b$|(^c)", ["a", "b", "c"], ["ab"]),
    (r"(?x) a \  b  # a comment", ["a b"], ["ab"]),
    (r"(?i)stra(?-i:ß)e", ["STRAße", "straße"], ["straSSe", "strAẞe"]),
    (r".", ["é", "😀", "\r"], ["\n", "", "ab"]),
    (r"(?s).", ["\n"], [""]),
    (r"", [""], ["a"]),
    (r"[^\x00-\U0010fffe]", ["\U0010ffff"], ["\U0010fffe"]),
])  # fmt: skip
def test_known_patterns(pattern, inside, outside):
    dfa = compile_regex(pattern)
    for text in inside:
        assert dfa.matches(text), text
    for text in outside:
        assert not dfa.matches(text), text


def test_all_code_points_and_no_invalid_utf8():
    any_character = compile_regex("(?s).")
    for point in [*range(0, 0x110000, 37), 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF,
                  0x10000, 0x10FFFF]:  # fmt: skip
        if not 0xD800 <= point <= 0xDFFF:
            assert any_character.matches(chr(point))
    invalid = "80 c080 c1bf e08080 eda080 f0808080 f4908080 f5 ff c3 e282 8080"
    for text in map(bytes.fromhex, invalid.split()):
        assert not any_character.matches(text)


@pytest.mark.parametrize(("pattern", "name"), [
    ("a(?=b)", "look-around"), ("(?<!a)b", "look-around"), ("(?!a)b", "look-around"),
    (r"(a)\1", "back-reference"), ("(?P<x>a)(?P=x)", "back-reference"),
    (r"(a)?(?(1)b|c)", "conditional"), (r"\bword", "word boundary"), (r"a\Bb", r"\\B"),
    ("a^b", r"anchor \^"), ("a$b", r"anchor \$"), ("(^a)*", r"anchor \^"), ("(a$)+b", "anchor"),
    ("a(", "not a pattern"), ("[b-a]", "not a pattern"), ("(" * 3000, "not a pattern"),
    ("a" * 20_001, "20000 characters"),
])  # fmt: skip
def test_unsupported_and_invalid_patterns_are_named(pattern, name):
    with pytest.raises(ValueError, match=name) as caught:
        compile_regex(pattern)
    assert "Received: regex=" in str(caught.value)


@pytest.mark.skipif(not hasattr(re, "NOFLAG"), reason="new in Python 3.11")
@pytest.mark.parametrize(("pattern", "name"), [("a++b", "possessive"), ("(?>a|b)", "atomic")])
def test_syntax_of_python_3_11_is_unsupported(pattern, name):
    with pytest.raises(ValueError, match=name):
        compile_regex(pattern)


def test_pattern_must_be_a_string():
    with pytest.raises(TypeError, match="must be a string"):
        compile_regex(b"a")


@pytest.mark.parametrize("pattern", [
    "(a{1000}){1000}", "((a{0,100}){0,100}){0,100}", "(a|b)*a(a|b){20}", "(a?){5000}",
    r"(?u)\w{1,5000}", "((((a*)*b)*c)*d){9999}", "(a{1,60000}){1,60000}",
])  # fmt: skip
def test_hostile_patterns_fail_fast(pattern):
    begin = time.process_time()
    with pytest.raises(ValueError, match="too large"):
        compile_regex(pattern)
    assert time.process_time() - begin < 6


def count_equivalence_classes(dfa: ByteDFA) -> int:
    """Counts the classes of equivalent states by Moore's partition refinement."""
    block = dfa.accepting.astype(int)
    while True:
        after = np.where(dfa.next_state < 0, -1, block[dfa.next_state])
        rows = np.concatenate([block[:, None], after], axis=1)
        new = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
        if new.max() == block.max():
            return int(new.max()) + 1
        block = new


@pytest.mark.parametrize("pattern", [
    r"(a|b)*a(a|b){3}", r"(?u)\w", "(a|ab|abc|b|bc|c)*", ".*(foo|bar).*", "[a-z]{0,40}x?",
    "(?i)hello|help|held", "a+|aa*", "(ab|ba){2,5}", "é|è|ê",
])  # fmt: skip
def test_dfas_are_minimal(pattern):
    dfa = compile_regex(pattern)
    assert count_equivalence_classes(dfa) == len(dfa.accepting)
    again = minimize(dfa.next_state, dfa.accepting)
    np.testing.assert_array_equal(again.next_state, dfa.next_state)
    # The union of two copies is minimized to one.
    copies = Alternation((Compiled(dfa), Compiled(dfa)))
    np.testing.assert_array_equal(compile_expression(copies).next_state, dfa.next_state)


def test_known_numbers_of_states():
    assert len(compile_regex("(a|b)*a(a|b){3}").accepting) == 16  # 2 to the 4th
    assert len(compile_regex("(?s).*").accepting) == 8
    assert not compile_regex("[^\\s\\S]").accepting.any()


@settings(QUICK, max_examples=20)
@given(PATTERNS, PATTERNS, TEXTS)
def test_intersection_and_difference(first, second, texts):
    one, two = compile_regex(first), compile_regex(second)
    shared, rest = intersection(one, two), intersection(one, complement(two))
    for text in texts:
        assert shared.matches(text) == (one.matches(text) and two.matches(text))
        assert rest.matches(text) == (one.matches(text) and not two.matches(text))


@settings(QUICK, max_examples=40)
@given(PATTERNS, st.sampled_from([("", ""), ("^", ""), ("", "$"), ("^", "$")]), TEXTS)
def test_search_matches_as_re_search(pattern, ends, texts):
    pattern = f"{ends[0]}(?:{pattern}){ends[1]}"
    dfa = compile_expression(parse_regex("(?u)" + pattern, search=True))
    for text in texts:
        # In Python, `$` also matches before a final line break; in ECMAScript it does not.
        expected = re.search(pattern.replace("$", r"\Z") if ends[1] else pattern, text)
        assert dfa.matches(text) == bool(expected), text
