"""Error texts are short and cheap, whatever was received."""

import collections
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2.errors import explain, nearest, shorten


class Endless(collections.abc.Mapping):
    """A mapping that must not be walked to its end."""

    def __init__(self):
        self.walked = 0

    def __getitem__(self, key):
        return key

    def __len__(self):
        return 10**9

    def __iter__(self):
        while self.walked < len(self):
            self.walked += 1
            yield self.walked


@pytest.mark.parametrize(
    "value",
    [
        3, -0.5, True, None, "it's", 'a "word"', b"\xff\n", "a" * 198,
        [], [1, [2, "x"]], (), (1,), (1, (2, 3)), {}, {"a": [1], 2: None}, {5},
        np.float32(0.5), np.arange(3), np.zeros([2, 2], np.int8),
    ],
)  # fmt: skip
def test_a_short_value_is_shown_like_repr(value):
    assert shorten(value) == repr(value)


@pytest.mark.parametrize(
    "value, shown",
    [
        ("a" * 10**8, "'aaaa"),
        (b"\x00" * 10**8, "b'\\x00"),
        (["a" * 10**8] * 3, "['aaaa"),
        ([0] * 10**7, "[0, 0, "),
        ({"k" * 10**8: 1}, "{'kkk"),
        (10**100_000, "an integer of 332193 bits"),
        (np.zeros([10**7]), "<ndarray: shape=(10000000,), dtype=float64>"),
        (np.zeros([4] * 9), "<ndarray: shape=(4, 4, 4, 4, 4, 4, 4, 4, 4), dtype=float64>"),
        (np.array(["a" * 10**7]), "<ndarray: shape=(1,), dtype=str320000000>"),
        (tf.constant(["a" * 10**7]), "<EagerTensor: shape=(1,), dtype=string>"),
        (tf.zeros([3000]), "<EagerTensor: shape=(3000,), dtype=float32>"),
        (dict.fromkeys(range(10**6)).keys(), "{0, 1, 2"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_long_value_is_cut_without_building_it(value, shown):
    tracemalloc.start()
    text = shorten(value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert text.startswith(shown) and len(text) <= 203
    assert peak < 100_000


def test_containers_are_walked_no_further_than_shown():
    endless, around = Endless(), []
    around.append(around)
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert shorten(endless).endswith("...") and endless.walked < 100
    assert shorten(around) == shorten(deep) == "[" * 200 + "..."


def test_a_message_is_short_whatever_was_received():
    text = explain(
        f"There is no option {'x' * 10**6}.", fix=nearest("y" * 10**6, ["a" * 10**6, "b"]),
        **{"z" * 10**6: [0] * 10**6, "other": "o" * 10**6, "third": b"t" * 10**6, "late": 1},
    )  # fmt: skip
    assert len(text) < 2600
    problem, received = text.split("Received: ")
    assert problem.endswith("xxx... ") and received.startswith("zzz")
    assert "=[0, 0, " in received and "Known names: aaa" in received
