"""Automata over tokens: the tables against plain walks, and generation by chance in every mode."""

import functools
import json
import re
import time

import jsonschema
import numpy as np
import pytest
import tensorflow as tf

from tests.support import automaton_walks
from tfgpt2.generation.constraints import token_dfa as tokens_of
from tfgpt2.generation.constraints.compile import choices_automaton, compile_constraint
from tfgpt2.generation.constraints.masking import FREE, Constraint, advance, allow, complete, join
from tfgpt2.generation.constraints.regex import regex_automaton
from tfgpt2.nn.attention import MASK_VALUE
from tfgpt2.tokenizers.host import GPT2Tokenizer

BYTES = [bytes([byte]) for byte in range(256)]
E = "é€😀".encode()
TOY = [b"", *BYTES, b"ab", b"abc", b"bc", b"true", b'{"', b'":', b'": ', b'","', b"\xc3", E[:3],
       E[3:7], E, b"12", b"2024", b"-0", b"", b"aaaa", b'"}', b"}", b" yes", b"no\n",
       b"ab"]  # fmt: skip
# Few bytes, no single letters: many texts cannot be written, and some states are never reached.
SPARSE = [b"", b"ab", b"ba", b"aab", b"b", b"cc", b"\xc3", b"\xa9", b"yes", b"ye", b"s", b"no"]
SCHEMA = {
    "type": "object", "required": ["name", "age", "born"], "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 3},
        "score": {"type": ["number", "null"]},
    },
}  # fmt: skip
CASES = {
    "choices": {"choices": ["yes", "no", "yesno", "", "é€😀"]},
    "date": {"regex": r"\d{4}-\d{2}"},
    "letters": {"regex": "(ab|ba)*c?"},
    "text": {"regex": r"(?s).{3,9}\n"},
    "unicode": {"regex": r"(?u)\w{1,3}"},
    "schema": {"json_schema": SCHEMA},
}


@functools.lru_cache
def gpt2_tokens(folder):
    tokenizer = GPT2Tokenizer(folder / "vocab.json", folder / "merges.txt")
    return vocabulary(tokenizer), tokenizer


def vocabulary(tokenizer):
    """The bytes of each id; special tokens have none."""
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in letters]
    bytes_of = {chr(byte): byte for byte in letters}
    bytes_of |= {chr(256 + number): byte for number, byte in enumerate(rest)}
    found = [b""] * len(tokenizer)
    for token, one in tokenizer.get_vocab().items():
        if one not in tokenizer.all_special_ids:
            found[one] = bytes(bytes_of[letter] for letter in token)
    return found


def check(case, text):
    """Whether a text is what a case asks for, by other means than ours."""
    if "choices" in case:
        return text in [one.encode() for one in case["choices"]]
    if "regex" in case:
        return bool(re.fullmatch(case["regex"], text.decode()))
    value = json.loads(text)
    validator = jsonschema.Draft202012Validator
    return validator(SCHEMA, format_checker=validator.FORMAT_CHECKER).is_valid(value)


def run(constraint: Constraint, tokens, limit, eos=-1, seed=0, spread=3.0):
    """Draws tokens at random until every row ends; texts, numbers of tokens, how rows ended."""
    random = np.random.RandomState(seed)
    state = constraint.start
    rows = len(state)
    limit = np.broadcast_to(limit, [rows])
    texts, count, how = [b""] * rows, np.zeros(rows, int), [""] * rows
    for _ in range(int(limit.max())):
        logits = tf.constant(random.randn(rows, len(tokens)) * spread, tf.float32)
        remaining = tf.constant(np.maximum(limit - count, 0), tf.int32)
        masked, after, done = STEP(constraint, state, logits, tf.fill([rows, 1], eos), remaining)
        assert np.isfinite(masked).all()
        for row, token in enumerate(np.argmax(masked, axis=1)):
            if how[row]:
                continue
            assert masked[row, token] > MASK_VALUE
            count[row] += 1
            if token == eos:
                how[row] = "eos"
                continue
            texts[row] += tokens[token]
            how[row] = "complete" if done[row] else "length" if count[row] == limit[row] else ""
        state = after
        if all(how):
            break
    return texts, count, how


@functools.partial(tf.function, autograph=False, reduce_retracing=True)
def STEP(constraint, state, logits, eos, remaining):
    masked = allow(logits, constraint, state, eos, remaining)
    after = advance(constraint, state, tf.argmax(masked, axis=1, output_type=tf.int32))
    return masked, after, complete(constraint, after, remaining - 1)


def plain_table(automaton, tokens):
    """From each state of the bytes, the state after each token."""
    table = np.full((len(automaton.final), len(tokens)), -1)
    for state in range(len(automaton.final)):
        for number, token in enumerate(tokens):
            here = state
            for byte in token:
                here = automaton.next[here, byte] if here >= 0 else -1
            table[state, number] = here if token else -1
    return table


@pytest.mark.parametrize("tokens", [TOY, SPARSE], ids=["toy", "sparse"])
@pytest.mark.parametrize("pattern", ["(ab|ba)*c?", "[a-y]{2,5}", "(?s).*", "(é|yes|no)+"])
def test_the_table_is_the_walk_of_each_token(tokens, pattern):
    automaton = regex_automaton(pattern)
    found, plain = tokens_of.read_tokens(automaton, tokens), plain_table(automaton, tokens)
    steps = np.where(automaton.final, 0, 10**6)
    for _ in range(100):
        after = np.where(plain >= 0, steps[plain], 10**6)
        steps = np.where(automaton.final, 0, np.minimum(steps, 1 + after.min(1)))
    assert tokens_of.fewest_tokens(found) == steps[0]
    # Side by side: states are renumbered, useless ones are gone.
    same, open_ends = {found.start: 0}, [found.start]
    while open_ends:
        state = open_ends.pop()
        assert found.final[state] == automaton.final[same[state]]
        assert found.steps[state] == steps[same[state]] < 10**6
        for number in range(len(tokens)):
            ours, theirs = found.next[state, found.token_class[number]], plain[same[state], number]
            assert (ours < 0) == (theirs < 0 or steps[theirs] >= 10**6)
            if ours >= 0 and same.setdefault(ours, theirs) == theirs and ours not in same:
                open_ends.append(ours)
            if ours >= 0:
                assert same[ours] == theirs
    assert len(found.final) >= len(same)
    columns = {column.tobytes() for column in found.next.T}
    assert len(columns) == found.next.shape[1]  # no two classes alike
    assert (found.next[:, 0] < 0).all()


@pytest.mark.parametrize("name", CASES)
def test_random_walks_end_in_a_match(name):
    case = CASES[name]
    found = compile_constraint(TOY, **case)
    least = tokens_of.fewest_tokens(found)
    limits = np.array([max(least, 1) + more for more in (0, 0, 1, 2, 3, 5, 8, 40, 200)])
    for eos in (-1, 0):
        texts, count, how = run(join([found] * len(limits), len(TOY)), TOY, limits, eos=eos)
        assert (count <= limits).all()
        for text in texts:
            assert check(case, text), text
        assert "complete" in how or "eos" in how


def test_the_bundled_model_and_gpt2(shared_data):
    bundled = GPT2Tokenizer.from_pretrained("shakespeare-tiny")
    gpt2, tokenizer = gpt2_tokens(shared_data / "gpt2_vocab")
    assert len(gpt2) == 50257
    for tokens, end in (
        (vocabulary(bundled), bundled.eos_token_id),
        (gpt2, tokenizer.eos_token_id),
    ):
        for name in ("choices", "date", "unicode", "schema"):
            found = compile_constraint(tokens, **CASES[name])
            least = max(1, tokens_of.fewest_tokens(found))
            limits = np.array([least, least + 1, least + 4, 90])
            texts, _, _ = run(join([found] * 4, len(tokens)), tokens, limits, eos=end)
            for text in texts:
                assert check(CASES[name], text), text


def test_texts_that_match_are_accepted_token_by_token(shared_data):
    tokens, tokenizer = gpt2_tokens(shared_data / "gpt2_vocab")
    for name in ("date", "schema", "unicode", "text"):
        case = CASES[name]
        found = compile_constraint(tokens, **case)
        source = compile_constraint(BYTES, **case)  # a byte is a token: an automaton over bytes
        bytes_only = tokens_of.ByteAutomaton(source.next[:, source.token_class], source.final)
        for text in automaton_walks.texts(bytes_only, seed=3, count=25):
            state = found.start
            ids = tokenizer.encode(text.decode(), add_special_tokens=False)
            for left, token in zip(range(len(ids), 0, -1), ids, strict=True):
                assert found.steps[state] <= left
                state = found.next[state, found.token_class[token]]
                assert state >= 0, text
            assert found.final[state]


def batch():
    """Rows with different automata, one of them twice, and free ones."""
    cases = [CASES["choices"], None, CASES["date"], CASES["letters"], CASES["date"], None]
    automata = [case and compile_constraint(TOY, **case) for case in cases]
    return cases, join(automata, len(TOY) + 3)


def test_rows_with_different_automata():
    cases, constraint = batch()
    assert constraint.start.shape == [6] and constraint.token_class.shape == [4, len(TOY) + 3]
    assert constraint.start[1] == constraint.start[5] == FREE
    assert constraint.start[2] == constraint.start[4] != constraint.start[0]
    tokens = [*TOY, b"<1>", b"<2>", b"<3>"]
    texts, count, how = run(constraint, tokens, 30, eos=0, seed=4)
    for case, text in zip(cases, texts, strict=True):
        assert case is None or check(case, text), text
    assert {how[1], how[5]} <= {"eos", "length"}
    # A row does what it does alone.
    alone = compile_constraint(TOY, **CASES["date"])
    logits = tf.random.stateless_uniform([6, len(tokens)], [1, 2])
    eos, remaining = tf.fill([6, 1], 0), tf.fill([6], 9)
    together = allow(logits, constraint, constraint.start, eos, remaining)
    single = join([alone], len(tokens))
    one = allow(logits[2:3], single, single.start, eos[2:3], remaining[2:3])
    np.testing.assert_array_equal(together[2], one[0])
    np.testing.assert_array_equal(together[1], logits[1])


def test_modes_agree_and_batches_may_grow(run_as):
    _, constraint = batch()
    masked = run_as(allow)
    step, ended = run_as(advance), run_as(complete)
    random = np.random.RandomState(0)
    state = constraint.start
    for remaining in (9, 3, 2, 1):
        rows = [0, 2, 3, 4, 1, 5][: 3 + remaining % 4]
        logits = tf.constant(random.randn(6, len(TOY) + 3), tf.float32)
        left, eos = tf.fill([6], remaining), tf.constant([[0, -1, 16]] * 6)
        found = masked(logits, constraint, state, eos, left)
        np.testing.assert_array_equal(found, allow(logits, constraint, state, eos, left))
        part = masked(*(tf.gather(x, rows) if x is not constraint else x
                        for x in (logits, constraint, state, eos, left)))  # fmt: skip
        np.testing.assert_array_equal(part, tf.gather(found, rows))
        token = tf.argmax(found, axis=1, output_type=tf.int32)
        after = step(constraint, state, token)
        np.testing.assert_array_equal(after, advance(constraint, state, token))
        np.testing.assert_array_equal(
            ended(constraint, after, left), complete(constraint, after, left)
        )
        state = after


def kept_tokens(found, state, remaining, eos=(-1,), size=None):
    constraint = join([found], size or len(found.token_class))
    logits = tf.zeros([1, size or len(found.token_class)])
    offset = int(constraint.start[0]) - found.start
    masked = allow(logits, constraint, tf.constant([state + offset]), tf.constant([eos]),
                   tf.constant([remaining]))  # fmt: skip
    return set(np.flatnonzero(masked[0].numpy() == 0).tolist())


def test_known_masks():
    tokens = [b"", b"a", b"b", b"ab", b"abb"]
    found = compile_constraint(tokens, regex="a(bb)?")
    assert kept_tokens(found, found.start, 9) == {1, 3, 4}
    assert kept_tokens(found, found.start, 9, size=7) == {1, 3, 4}  # ids without a token
    assert kept_tokens(found, found.start, 1) == {1, 4}  # after "ab" a token would be missing
    middle = found.next[found.start, found.token_class[1]]
    assert kept_tokens(found, middle, 9, eos=(0,)) == {0, 2}
    assert kept_tokens(found, middle, 1, eos=(0,)) == {0}
    assert kept_tokens(found, middle, 1) == {0, 1, 2, 3, 4}  # complete, and nothing to end with
    assert kept_tokens(found, found.start, 0) == {1, 4}  # too tight: the shortest way
    constraint = join([found, None], 5)
    for state, remaining, expected in [
        (found.next[middle, found.token_class[2]], 9, False),
        (found.next[found.start, found.token_class[4]], 2**31 - 1, True),
        (found.start, 9, False), (middle, 9, False), (middle, 2, False), (middle, 1, True),
        (middle, 0, True),
    ]:  # fmt: skip
        state = tf.stack([constraint.start[0] + state - found.start, FREE])
        done = complete(constraint, state, tf.fill([2], remaining))
        assert done.numpy().tolist() == [expected, False]


def test_an_end_token_ends_only_a_match_and_text_that_ends_is_not_used():
    tokens = [b"", b"a", b"b", b"\n"]
    found = compile_constraint(tokens, regex="a*b", end_ids=[3])
    assert kept_tokens(found, found.start, 9, eos=(0, 3)) == {1, 2}
    with pytest.raises(ValueError, match="No text"):
        compile_constraint(tokens, regex="a\n", end_ids=[3])
    # Where the host did not ask, the only way on stays open.
    found = compile_constraint(tokens, regex="\n")
    assert kept_tokens(found, found.start, 9, eos=(3, 3, 99)) == {3}
    found = compile_constraint(tokens, regex="[a\n]")
    assert kept_tokens(found, found.start, 9, eos=(3, -1)) == {1}
    assert kept_tokens(found, found.start, 9, eos=(1, 3, 1)) == {1, 3}


def test_a_limit_that_is_too_tight_is_known_beforehand():
    found = compile_constraint(TOY, choices=["zzzz", "zzzzz"])
    assert tokens_of.fewest_tokens(found) == 4
    texts, count, how = run(join([found], len(TOY)), TOY, 2)
    assert (texts, how) == ([b"zz"], ["length"])


def test_free_rows_only():
    constraint = join([None, None], 10)
    logits = tf.random.stateless_uniform([2, 10], [1, 2])
    masked = allow(logits, constraint, constraint.start, tf.constant([[3], [3]]), tf.fill([2], 1))
    np.testing.assert_array_equal(masked, logits)
    assert advance(constraint, constraint.start, tf.constant([4, 9])).numpy().tolist() == [0, 0]


def test_sizes_are_few():
    shapes = set()
    for most in range(1, 120, 7):
        found = compile_constraint(TOY, regex=f"[a-d]{{1,{most}}}")
        constraint = join([found], len(TOY))
        shapes.add((*constraint.next.shape, *constraint.token_class.shape))
    assert shapes == {(64, 64, 1, len(TOY)), (256, 64, 1, len(TOY))}


def test_compiled_automata_are_remembered():
    first = compile_constraint(TOY, json_schema=SCHEMA)
    assert compile_constraint(TOY, json_schema=json.dumps(SCHEMA)) is first
    assert compile_constraint([*TOY, b"x"], json_schema=SCHEMA) is not first
    assert compile_constraint(TOY, json_schema=SCHEMA, end_ids=[0, -1]) is first
    assert compile_constraint(TOY, json_schema=SCHEMA, end_ids=[3]) is not first
    with pytest.raises(ValueError, match="read-only"):
        first.next[0, 0] = 1


@pytest.mark.parametrize(("options", "error", "words"), [
    ({}, ValueError, "Exactly one"), ({"regex": "a", "choices": ["a"]}, ValueError, "Exactly one"),
    ({"choices": []}, ValueError, "empty"), ({"choices": "yes"}, TypeError, "list of strings"),
    ({"choices": [1]}, TypeError, "list of strings"), ({"regex": 3}, TypeError, "a string"),
    ({"regex": "x"}, ValueError, "No text"), ({"json_schema": 3}, TypeError, "must be a dict"),
    ({"regex": r"[^\s\S]"}, ValueError, "No text"),
    ({"choices": ["\ud800"]}, ValueError, "surrogate"),
])  # fmt: skip
def test_what_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        compile_constraint(SPARSE, **options)


def test_joining_asks_for_the_right_vocabulary():
    found = compile_constraint(TOY, regex="a")
    for automata, size in (([found], len(TOY) - 1), ([], 5)):
        with pytest.raises(ValueError, match="one per row"):
            join(automata, size)


def test_bytes_that_are_no_text():
    every = choices_automaton([bytes([byte, 255 - byte]) for byte in range(256)])
    with pytest.raises(ValueError, match="all 256 bytes apart"):
        tokens_of.read_tokens(every, BYTES)
    assert compile_constraint(BYTES, choices=[b"\xff\xfe"]).steps[0] == 2


@pytest.mark.long
def test_speed_on_gpt2(shared_data, figure):
    tokens, _ = gpt2_tokens(shared_data / "gpt2_vocab")
    for name in CASES:
        begin = time.process_time()
        found = compile_constraint(tokens, **CASES[name], end_ids=[0])
        figure(f"seconds to compile {name!r} for GPT-2", time.process_time() - begin)
        figure(f"states of {name!r}", len(found.final))
        figure(f"token classes of {name!r}", found.next.shape[1])
        assert time.process_time() - begin < 8


@pytest.mark.long
def test_every_walk_of_the_schema_ends_in_a_match(shared_data):
    tokens, tokenizer = gpt2_tokens(shared_data / "gpt2_vocab")
    found = compile_constraint(tokens, json_schema=SCHEMA)
    constraint = join([found] * 16, len(tokens))
    for seed in range(12):
        limits = np.random.RandomState(seed).randint(tokens_of.fewest_tokens(found), 120, 16)
        texts, _, _ = run(constraint, tokens, limits, tokenizer.eos_token_id, seed)
        for text in texts:
            assert check(CASES["schema"], text), text
