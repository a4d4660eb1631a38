"""Stop strings against a plain search in the joined text, and their border."""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2.generation import stopping

VOCABULARY = [b"", b"a", b"b", b"ab", b"ba", b"abc", b"c" * 7, b"\xc3\xa9", b"\xc3", b"\xa9",
              b"\xf0\x9f\x98\x80", b"\xf0\x9f", b"\x98\x80", b"\n", b"\0", b"aaaa"]  # fmt: skip
ADVANCE = tf.function(stopping.match_token, autograph=False, reduce_retracing=True)


def run(tokens, stops, advance=ADVANCE):
    """Cuts of rows `[B]` after each of the tokens `[T, B]`."""
    vocabulary = stopping.token_bytes(VOCABULARY)
    strings = stopping.encode_stop_strings(tf.constant(stops, tf.string))
    state, cuts = stopping.start_matching(strings), []
    for step in tokens:
        token = tf.constant(step, tf.int32)
        state = advance(state, strings, vocabulary, token)
        cuts.append(state.cut.numpy())
    return np.array(cuts)


def plain(tokens, stops):
    """The same by search: where the first stop begins, from the token on that completes one."""
    text, cuts, cut = b"", [], -1
    for token in tokens:
        text += VOCABULARY[token]
        places = [text.find(stop) for stop in stops if stop and stop in text]
        cut = min(places) if places and cut < 0 else cut
        cuts.append(cut)
    return cuts


def test_matches_a_plain_search():
    random = np.random.RandomState(0)
    pieces = [b"a", b"b", b"c", b"ab", "é".encode(), b"\n", b"\xa9", b"\0", b"aa", b""]
    for _ in range(6):
        rows, count = 64, random.randint(1, 5)
        tokens = random.randint(0, len(VOCABULARY), (14, rows))
        stops = [
            [b"".join(random.choice(pieces, random.randint(1, 7))) for _ in range(count)]
            for _ in range(rows)
        ]
        found = run(tokens, stops)
        for row in range(rows):
            assert found[:, row].tolist() == plain(tokens[:, row], stops[row]), stops[row]


@pytest.mark.parametrize("stop", [
    b"ab", b"bc", b"bcccccccca", b"ca", b"c" * 8, "é".encode(), b"\xa9", "😀".encode(),
    b"abcccccccca\0\xc3\xa9\xc3\xa9\xf0", b"\0", b"x", b"",
])  # fmt: skip
def test_across_token_boundaries_and_inside_tokens(stop):
    tokens = [[5], [6], [1], [14], [8], [9], [7], [11], [12]]
    text = b"".join(VOCABULARY[token[0]] for token in tokens)
    assert run(tokens, [[stop]])[-1, 0] == (text.find(stop) if stop else -1)


def test_compiled_gives_the_same():
    tokens = np.random.RandomState(1).randint(0, len(VOCABULARY), (10, 8))
    stops = [[b"ab", b"\n"]] * 8
    advance = tf.function(stopping.match_token, autograph=False, jit_compile=True)
    np.testing.assert_array_equal(run(tokens, stops, advance), run(tokens, stops))


def test_sizes_are_few():
    shapes = set()
    for count in (1, 2, 5, 16, 17, 64):
        for length in range(0, 257, 16):
            table = stopping.encode_stop_strings(tf.fill([1, count], "x" * length)).table
            shapes.add(tuple(table.shape))
    assert shapes == {(1, q, w) for q in (1, 4, 16, 64) for w in (16, 64, 256)}


def test_what_a_graph_cannot_refuse_is_not_looked_for():
    assert run([[1]] * 3, [["a" * 300, "b"]])[-1, 0] == -1
    assert run([[1]] * 3, [["x"] * 64 + ["a"]])[-1, 0] == -1
    assert run([[1]] * 3, np.zeros([1, 0], object))[-1, 0] == -1


def test_the_longest_stop_is_found():
    assert run([[1]] * 256, [[b"a" * 256]])[-2:, 0].tolist() == [-1, 0]


def test_token_bytes():
    table = stopping.token_bytes([b"", b"ab", b"c"], size=5)
    text, count = table.lookup(tf.range(5))
    assert text.numpy().tolist() == [[-1, -1], [97, 98], [99, -1], [-1, -1], [-1, -1]]
    assert count.numpy().tolist() == [0, 2, 1, 0, 0]
    assert stopping.token_bytes([]).longest == stopping.token_bytes([b""]).longest == 1


def test_rows_of_stops():
    rows = lambda stop, count: stopping.check_stop_strings("stop", stop, count).numpy().tolist()  # noqa: E731
    assert rows("a", 2) == [[b"a"], [b"a"]]
    assert rows(["a", b"b"], 2) == [[b"a", b"b"]] * 2
    assert rows([["a", "b"], "c"], 2) == [[b"a", b"b"], [b"c", b""]]
    assert rows([[], ["é"]], 2) == [[b""], ["é".encode()]]
    assert rows([], 2) == [[b""], [b""]]
    assert rows("\ud800", 1) == [[b"\xed\xa0\x80"]]
    assert rows("a", 0) == []


@pytest.mark.parametrize(
    "stop", [5, None, ["a", 5], [["a"]], [["a"], ["b"], ["c"]], [[["a"]], "b"]]
)
def test_wrong_stops_are_refused(stop):
    with pytest.raises(TypeError, match=r"`stop` must be a string, a list.* Received: stop=.*Pass"):
        stopping.check_stop_strings("stop", stop, 2)


@pytest.mark.parametrize("stop", ["x" * 257, "é" * 129, ["x"] * 65])
def test_too_many_or_too_long_stops_are_refused(stop):
    with pytest.raises(ValueError, match=r"64 stop strings of 256 bytes.* Received: stop=.*Pass"):
        stopping.check_stop_strings("stop", stop, 1)
