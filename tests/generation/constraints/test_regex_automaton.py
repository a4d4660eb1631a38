"""Automata of patterns against Python's own `re`."""

import re
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support import automaton_walks
from tfgpt2.generation.constraints import byte_nfa as byte_nodes
from tfgpt2.generation.constraints.byte_dfa import ByteAutomaton, both, except_for, smallest
from tfgpt2.generation.constraints.regex import parse, regex_automaton

LETTERS = "abcABC019_ -.\n\té€ßıKſ😀٣"  # with the Kelvin sign, a long s and an Arabic digit
ATOMS = [
    *map(re.escape, LETTERS), ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[a-c]", "[^a-c]",
    r"[\dx]", r"[^\w ]", r"[^\Wa]", "[é-€]", "[^é-€]", "[a\u0100-\U0001f680]", r"\x41", r"[\s\S]",
    "(?:)", r"[A-b]", "[\U0001f600-\U0010ffff]",
]  # fmt: skip
REPEATS = ["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "{2,}", "{,2}"]


def grow(inner):
    return st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(REPEATS)).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        inner.map(lambda part: f"({part})"),
        inner.map(lambda part: f"(?i:{part})"),
        inner.map(lambda part: f"(?s:{part})"),
        inner.map(lambda part: f"(?P<n>{part})"),
    )


PATTERNS = st.recursive(st.sampled_from(ATOMS), grow, max_leaves=6).filter(
    lambda pattern: pattern.count("(?P<n>") < 2
)
FLAGS = st.sampled_from(["(?u)", "(?a)", "(?ui)", "(?ai)", "(?us)"])
TEXTS = st.lists(st.text(alphabet=LETTERS, max_size=5), min_size=6, max_size=6)
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(PATTERNS, FLAGS, TEXTS, st.integers(0, 2**31))
@example(r"(?i:K)[^k]", "(?u)", ["kK", "K"], 0)
def test_the_same_texts_as_re(pattern, flags, texts, seed):
    check_against_re(pattern, flags, texts, seed)


@pytest.mark.long
@settings(QUICK, max_examples=1000)
@given(PATTERNS, FLAGS, TEXTS, st.integers(0, 2**31))
def test_many_patterns_against_re(pattern, flags, texts, seed):
    check_against_re(pattern, flags, texts, seed)


def check_against_re(pattern, flags, texts, seed):
    pattern = flags + pattern
    expected, automaton = re.compile(pattern), regex_automaton(pattern)
    for text in texts:
        assert automaton.matches(text) == bool(expected.fullmatch(text)), text
    if automaton.final.any():
        for text in automaton_walks.texts(automaton, seed, 5, longest=12):
            assert expected.fullmatch(text.decode()), text


@QUICK
@given(PATTERNS, TEXTS, st.integers(0, 2**31))
def test_without_a_flag_what_comes_out_matches_in_both_readings(pattern, texts, seed):
    unicode, ascii_only = re.compile(pattern), re.compile(pattern, re.ASCII)
    automaton = regex_automaton(pattern)
    found = automaton_walks.texts(automaton, seed, 5, 12) if automaton.final.any() else []
    for text in [*(one.decode() for one in found), *texts]:
        if automaton.matches(text):
            assert unicode.fullmatch(text), text
            assert "(?i" in pattern or ascii_only.fullmatch(text), text
        elif text.isascii():
            assert not unicode.fullmatch(text), text


@pytest.mark.long
@settings(QUICK, max_examples=60)
@given(st.data(), PATTERNS)
def test_texts_that_hypothesis_finds_for_a_pattern_are_accepted(data, pattern):
    pattern = "(?u)" + pattern
    text = data.draw(st.from_regex(re.compile(pattern), fullmatch=True))
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert regex_automaton(pattern).matches(text)


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
def test_known_cases(pattern, inside, outside):
    automaton = regex_automaton(pattern)
    for text in inside:
        assert automaton.matches(text), text
    for text in outside:
        assert not automaton.matches(text), text


def test_every_code_point_and_no_broken_utf8():
    everything = regex_automaton("(?s).")
    for point in [*range(0, 0x110000, 37), 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF,
                  0x10000, 0x10FFFF]:  # fmt: skip
        if not 0xD800 <= point <= 0xDFFF:
            assert everything.matches(chr(point))
    broken = "80 c080 c1bf e08080 eda080 f0808080 f4908080 f5 ff c3 e282 8080"
    for text in map(bytes.fromhex, broken.split()):
        assert not everything.matches(text)


@pytest.mark.parametrize(("pattern", "name"), [
    ("a(?=b)", "look-around"), ("(?<!a)b", "look-around"), ("(?!a)b", "look-around"),
    (r"(a)\1", "back-reference"), ("(?P<x>a)(?P=x)", "back-reference"),
    (r"(a)?(?(1)b|c)", "conditional"), (r"\bword", "word boundary"), (r"a\Bb", r"\\B"),
    ("a^b", r"anchor \^"), ("a$b", r"anchor \$"), ("(^a)*", r"anchor \^"), ("(a$)+b", "anchor"),
    ("a(", "no pattern"), ("[b-a]", "no pattern"), ("(" * 3000, "no pattern"),
    ("a" * 20_001, "20000 characters"),
])  # fmt: skip
def test_what_is_refused_is_named(pattern, name):
    with pytest.raises(ValueError, match=name) as caught:
        regex_automaton(pattern)
    assert "Received: regex=" in str(caught.value)


@pytest.mark.skipif(not hasattr(re, "NOFLAG"), reason="Python 3.11 reads these")
@pytest.mark.parametrize(("pattern", "name"), [("a++b", "possessive"), ("(?>a|b)", "atomic")])
def test_what_newer_pythons_read_is_refused(pattern, name):
    with pytest.raises(ValueError, match=name):
        regex_automaton(pattern)


def test_no_string():
    with pytest.raises(TypeError, match="must be a string"):
        regex_automaton(b"a")


@pytest.mark.parametrize("pattern", [
    "(a{1000}){1000}", "((a{0,100}){0,100}){0,100}", "(a|b)*a(a|b){20}", "(a?){5000}",
    r"(?u)\w{1,5000}", "((((a*)*b)*c)*d){9999}", "(a{1,60000}){1,60000}",
])  # fmt: skip
def test_hostile_patterns_fail_fast(pattern):
    begin = time.process_time()
    with pytest.raises(ValueError, match="too large"):
        regex_automaton(pattern)
    assert time.process_time() - begin < 6


def naive_classes(automaton: ByteAutomaton) -> int:
    """Counts the classes of equivalent states by refining until nothing changes."""
    block = automaton.final.astype(int)
    while True:
        after = np.where(automaton.next < 0, -1, block[automaton.next])
        rows = np.concatenate([block[:, None], after], axis=1)
        new = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
        if new.max() == block.max():
            return int(new.max()) + 1
        block = new


@pytest.mark.parametrize("pattern", [
    r"(a|b)*a(a|b){3}", r"(?u)\w", "(a|ab|abc|b|bc|c)*", ".*(foo|bar).*", "[a-z]{0,40}x?",
    "(?i)hello|help|held", "a+|aa*", "(ab|ba){2,5}", "é|è|ê",
])  # fmt: skip
def test_automata_are_the_smallest(pattern):
    automaton = regex_automaton(pattern)
    assert naive_classes(automaton) == len(automaton.final)
    again = smallest(automaton.next, automaton.final)
    np.testing.assert_array_equal(again.next, automaton.next)
    # Twice the same automaton, side by side, is made one again.
    both_copies = byte_nodes.Either((byte_nodes.Machine(automaton), byte_nodes.Machine(automaton)))
    np.testing.assert_array_equal(byte_nodes.compile_node(both_copies).next, automaton.next)


def test_known_sizes():
    assert len(regex_automaton("(a|b)*a(a|b){3}").final) == 16  # 2 to the 4th
    assert len(regex_automaton("(?s).*").final) == 8
    assert not regex_automaton("[^\\s\\S]").final.any()


@settings(QUICK, max_examples=20)
@given(PATTERNS, PATTERNS, TEXTS)
def test_products(first, second, texts):
    one, two = regex_automaton(first), regex_automaton(second)
    shared, rest = both(one, two), except_for(one, two)
    for text in texts:
        assert shared.matches(text) == (one.matches(text) and two.matches(text))
        assert rest.matches(text) == (one.matches(text) and not two.matches(text))


@settings(QUICK, max_examples=40)
@given(PATTERNS, st.sampled_from([("", ""), ("^", ""), ("", "$"), ("^", "$")]), TEXTS)
def test_searching_reads_as_re_search_does(pattern, ends, texts):
    pattern = f"{ends[0]}(?:{pattern}){ends[1]}"
    automaton = byte_nodes.compile_node(parse("(?u)" + pattern, within=True))
    for text in texts:
        # `$` before a line break at the end is Python's alone; ECMAScript means the end.
        expected = re.search(pattern.replace("$", r"\Z") if ends[1] else pattern, text)
        assert automaton.matches(text) == bool(expected), text
