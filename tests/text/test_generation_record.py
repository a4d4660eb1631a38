"""How a notebook shows a continuation."""

import math
import re

from tfgpt2.text.generation import Generation


def record(tokens, probabilities):
    raw = b"".join(tokens)
    logprobs = [math.log(one) for one in probabilities]
    return Generation(raw.decode("utf-8", "replace"), raw, list(range(len(tokens))), 2, 0,
                      sum(logprobs), logprobs, "length", tokens=tokens)  # fmt: skip


def spans(found):
    return re.findall(r'<span style="background:([^"]+)" title="([^"]+)">([^<]*)</span>', found)


def test_tokens_are_tinted_by_their_probability_and_escaped():
    found = record([b" <b>", b"&\n", b"x"], [1.0, 0.5, 0.01])._repr_html_()
    assert spans(found) == [
        ("rgba(214,84,48,0.00)", "100.0%", " &lt;b&gt;"),
        ("rgba(214,84,48,0.30)", "50.0%", "&amp;\n"),
        ("rgba(214,84,48,0.59)", "1.0%", "x"),
    ]
    assert "3 tokens, -5.30 nats, ended by length" in found


def test_tokens_that_are_parts_of_a_character_are_one_piece():
    found = record(["é".encode()[:1], "é".encode()[1:], b"\xff", b"a"], [0.5, 0.5, 1.0, 1.0])
    assert [text for _, _, text in spans(found._repr_html_())] == ["é", "\ufffda"]
    assert spans(found._repr_html_())[0][1] == "25.0%"
    cut = record([b"a", "é".encode()[:1]], [1.0, 0.5])
    assert [text for _, _, text in spans(cut._repr_html_())] == ["a", "\ufffd"]


def test_without_tokens_the_text_is_plain():
    found = Generation("<i>", b"<i>", [1], 1, 0, -1.0, [-1.0], "eos")
    assert "&lt;i&gt;" in found._repr_html_() and not spans(found._repr_html_())
    assert " tokens=" not in repr(found)
