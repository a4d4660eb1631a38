"""Version numbers, against the function that TensorFlow Serving reads them with."""

import pytest
import tensorflow as tf

from tfgpt2.serving.version_number import parse_version

NAMES = [
    "1", "01", "0007", "0", "00", "+1", "-1", "-0", "--1", "+-1", "- 1", "+", "-", "", " ", " 1",
    "1 ", "\t1\n", "1 2", "1_0", "1.0", "1e3", "0x1", "1.part", ".1", "v1", "١", "１", "²", "1\0",
    "1\x1f", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
    "-9223372036854775809", "0" * 30 + "5", "9" * 30, "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_versions_are_read_as_tensorflow_reads_numbers(name):
    # `StringToNumber` calls safe_strto64, as TensorFlow Serving does for directories.
    try:
        expected = int(tf.strings.to_number(name, tf.int64))
    except tf.errors.InvalidArgumentError:
        expected = None
    assert parse_version(name) == expected
