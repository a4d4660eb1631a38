"""Token DFAs of constraints: transition tables against plain walks, and the entry point."""

import json
import time

import numpy as np
import pytest

from tests.support import dfa_walks
from tests.support.constraint_cases import BYTES, CASES, SCHEMA, SPARSE, TOY, load_gpt2
from tfgpt2.generation.constraints.byte_dfa import ByteDFA
from tfgpt2.generation.constraints.compile import compile_constraint
from tfgpt2.generation.constraints.regex import compile_regex
from tfgpt2.generation.constraints.token_dfa import compile_token_dfa, fewest_tokens

FAR = 10**6  # the distance from a state that cannot reach an accepting one


def walk_tokens(dfa: ByteDFA, token_bytes):
    """The state after each token from each state, byte by byte."""
    table = np.full((len(dfa.accepting), len(token_bytes)), -1)
    for start in range(len(dfa.accepting)):
        for number, data in enumerate(token_bytes):
            state = start
            for byte in data:
                state = dfa.next_state[state, byte] if state >= 0 else -1
            table[start, number] = state if data else -1
    return table


@pytest.mark.parametrize("token_bytes", [TOY, SPARSE], ids=["toy", "sparse"])
@pytest.mark.parametrize("pattern", ["(ab|ba)*c?", "[a-y]{2,5}", "(?s).*", "(é|yes|no)+"])
def test_transitions_are_the_walk_of_each_token(token_bytes, pattern):
    byte_dfa = compile_regex(pattern)
    dfa, plain = compile_token_dfa(byte_dfa, token_bytes), walk_tokens(byte_dfa, token_bytes)
    distance = np.where(byte_dfa.accepting, 0, FAR)
    for _ in range(100):
        after = np.where(plain >= 0, distance[plain], FAR)
        distance = np.where(byte_dfa.accepting, 0, np.minimum(distance, 1 + after.min(1)))
    assert fewest_tokens(dfa) == distance[0]
    # Side by side: states are renumbered, and useless ones are dropped.
    byte_state, frontier = {0: 0}, [0]
    while frontier:
        state = frontier.pop()
        assert dfa.accepting[state] == byte_dfa.accepting[byte_state[state]]
        assert dfa.distance[state] == distance[byte_state[state]] < FAR
        for token in range(len(token_bytes)):
            target = dfa.next_state[state, dfa.token_class[token]]
            expected = plain[byte_state[state], token]
            assert (target < 0) == (expected < 0 or distance[expected] >= FAR)
            if target >= 0 and target not in byte_state:
                frontier.append(target)
            if target >= 0:
                assert byte_state.setdefault(target, expected) == expected
    assert len(dfa.accepting) == len(byte_state)
    columns = {column.tobytes() for column in dfa.next_state.T}
    assert len(columns) == dfa.next_state.shape[1]  # no two classes are equal
    assert (dfa.next_state[:, 0] < 0).all()


def test_matching_texts_are_accepted_token_by_token(shared_data):
    token_bytes, tokenizer = load_gpt2(shared_data / "gpt2_vocab")
    for name in ("date", "schema", "unicode", "text"):
        dfa = compile_constraint(token_bytes, **CASES[name])
        of_bytes = compile_constraint(BYTES, **CASES[name])  # one token for each byte
        byte_dfa = ByteDFA(of_bytes.next_state[:, of_bytes.token_class], of_bytes.accepting)
        for text in dfa_walks.random_texts(byte_dfa, seed=3, count=25):
            state = 0
            ids = tokenizer.encode(text.decode(), add_special_tokens=False)
            for left, token in zip(range(len(ids), 0, -1), ids, strict=True):
                assert dfa.distance[state] <= left
                state = dfa.next_state[state, dfa.token_class[token]]
                assert state >= 0, text
            assert dfa.accepting[state]


def test_compiled_constraints_are_cached():
    first = compile_constraint(TOY, json_schema=SCHEMA)
    assert compile_constraint(TOY, json_schema=json.dumps(SCHEMA)) is first
    assert compile_constraint([*TOY, b"x"], json_schema=SCHEMA) is not first
    assert compile_constraint(TOY, json_schema=SCHEMA, end_ids=[0, -1]) is first
    assert compile_constraint(TOY, json_schema=SCHEMA, end_ids=[3]) is not first
    with pytest.raises(ValueError, match="read-only"):
        first.next_state[0, 0] = 1


@pytest.mark.parametrize(("options", "error", "words"), [
    ({}, ValueError, "Exactly one"), ({"regex": "a", "choices": ["a"]}, ValueError, "Exactly one"),
    ({"choices": []}, ValueError, "empty"), ({"choices": "yes"}, TypeError, "list of strings"),
    ({"choices": [1]}, TypeError, "list of strings"), ({"regex": 3}, TypeError, "a string"),
    ({"regex": "x"}, ValueError, "No text"), ({"json_schema": 3}, TypeError, "must be a dict"),
    ({"regex": r"[^\s\S]"}, ValueError, "No text"),
    ({"choices": ["\ud800"]}, ValueError, "surrogate"),
])  # fmt: skip
def test_invalid_constraints(options, error, words):
    with pytest.raises(error, match=words):
        compile_constraint(SPARSE, **options)


def test_byte_choices_that_are_not_utf8():
    with pytest.raises(ValueError, match="distinguishes all 256 bytes"):
        compile_constraint(BYTES, choices=[bytes([byte, 255 - byte]) for byte in range(256)])
    assert compile_constraint(BYTES, choices=[b"\xff\xfe"]).distance[0] == 2


@pytest.mark.long
def test_speed_on_gpt2(shared_data, figure):
    token_bytes, _ = load_gpt2(shared_data / "gpt2_vocab")
    for name in CASES:
        begin = time.process_time()
        dfa = compile_constraint(token_bytes, **CASES[name], end_ids=[0])
        figure(f"seconds to compile {name!r} for GPT-2", time.process_time() - begin)
        figure(f"states of {name!r}", len(dfa.accepting))
        figure(f"token classes of {name!r}", dfa.next_state.shape[1])
        assert time.process_time() - begin < 8
