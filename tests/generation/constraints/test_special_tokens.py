"""Special tokens in constraints: one id wherever their content is spelled out, and nowhere else."""

import numpy as np
import pytest

from tfgpt2.generation.constraints.compile import compile_constraint

END, EOS, LONGER, PIPE = range(256, 260)
TOKENS = [bytes([byte]) for byte in range(256)]
TOKENS += [b"<|end|>", b"<|eos|>", b"<|endless|>", "<｜>".encode(), b"yes"]
YES = len(TOKENS) - 1


def compiled(**constraint):
    return compile_constraint(TOKENS, special_ids=[END, EOS, LONGER, PIPE], end_ids=[EOS],
                              **constraint)  # fmt: skip


def after(dfa, *path):
    """The tokens that may follow a path of tokens and texts, and whether it may end there."""
    state = 0
    for token in (one for part in path for one in (part if isinstance(part, bytes) else [part])):
        state = dfa.next_state[state, dfa.token_class[token]]
        assert state >= 0, f"{token} is forbidden"
    found = np.flatnonzero(dfa.next_state[state, dfa.token_class] >= 0).tolist()
    return {chr(one) if one < 256 else one for one in found}, bool(dfa.accepting[state])


def test_choices():
    dfa = compiled(choices=["yes<|end|>", "no", "yes<|endless|>!", "<｜>", "maybe<|eos|>"])
    assert after(dfa) == ({"y", "n", "m", YES, PIPE}, False)
    assert after(dfa, b"yes") == after(dfa, YES) == ({END, LONGER}, False)  # not "<"
    assert after(dfa, YES, END) == after(dfa, PIPE) == (set(), True)
    assert after(dfa, YES, LONGER) == ({"!"}, False)
    assert after(dfa, b"maybe") == (set(), True)  # an end token ends the text


def test_end_tokens_inside_are_text():
    assert after(compiled(choices=["a<|eos|>b"]), b"a<|eos|>") == ({"b"}, False)


@pytest.mark.parametrize(("pattern", "path", "expected"), [
    (r"(yes|no)<\|(end|endless)\|>", [YES], {END, LONGER}),  # the parser shares the beginning
    (r"(<\|end\|>|a)*", [END, b"a"], {END, "a"}),
    (r"<+\|end\|>", [b"<<"], {END, "<"}),
    (r"[<]\|end\|>|<\|other\|>", [], {END, "<"}),
    (r"[<]\|end\|>|<\|other\|>", [b"<|"], {"o"}),
    (r"(<\|end)*<\|end\|>", [b"<|end"], {END, "<"}),
    (r"(<\|end\|>){2}", [END], {END}),
    (r"a?(<\|)?(end)?", [b"a<|"], {"e"}),  # the beginning of a content is text
])  # fmt: skip
def test_patterns(pattern, path, expected):
    assert after(compiled(regex=pattern), *path)[0] == expected


@pytest.mark.parametrize("constraint", [
    {"regex": ".*"}, {"regex": "[^a]+"}, {"json_schema": {"type": "string"}}, {"json_schema": True},
])  # fmt: skip
def test_wildcards_are_ordinary_text(constraint):
    dfa = compiled(**constraint)
    assert (dfa.token_class[[END, EOS, LONGER, PIPE]] == 0).all()
    assert "|" in after(dfa, b'"<')[0]


def test_json_schema():
    dfa = compiled(json_schema={"enum": ["a<|end|>b", "c"]})
    assert after(dfa, b'"a') == ({END}, False) and after(dfa, b'"a', END) == ({"b"}, False)
    dfa = compiled(json_schema={"type": "object", "properties": {"<|end|>": {"const": "<｜>"}},
                                "required": ["<|end|>"]})  # fmt: skip
    assert after(dfa, b'{"')[0] == {END} and after(dfa, b'{"', END, b'":"')[0] == {PIPE}


def test_special_tokens_are_part_of_the_cache_key():
    with_special = compiled(choices=["<|end|>"])
    without = compile_constraint(TOKENS, choices=["<|end|>"])
    assert after(with_special)[0] == {END} and after(without)[0] == {END, "<"}


def test_many_overlapping_spellings_fail_fast():
    with pytest.raises(ValueError, match="too large"):
        compile_constraint([*TOKENS, b"<" * 200], special_ids=[len(TOKENS)], regex="(<?){4000}")
