"""TFRecord files of `tf.train.Example`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfgpt2.batch.formats.base import Format, Row, damaged, decode

_FRAME = 16  # bytes of length and checksums beside each record


def read(path: Path) -> Iterator[Row]:
    """Reads a file; a record that is no Example has an error.

    Raises:
        ValueError: A record is cut short or its checksum is wrong.
    """
    records, number, offset = iter(tf.data.TFRecordDataset(str(path))), 0, 0
    while True:
        number += 1
        try:
            record = next(records).numpy()
        except StopIteration:
            return
        except tf.errors.OpError as error:
            reason = str(error.message).rpartition("}} ")[2].partition(" [Op:")[0]  # its place
            raise damaged(path, f"record {number - 1}", reason) from error
        offset += len(record) + _FRAME
        columns, problem = {}, None
        try:
            features = tf.train.Example.FromString(record).features.feature
            columns = {name: _value(features[name]) for name in sorted(features)}
        except Exception as error:
            if type(error).__name__ != "DecodeError":  # protobuf's; its module moves
                raise
            problem = "it is not a tf.train.Example"
        yield Row(columns, f"record {number}", offset, problem)


def _value(feature: Any) -> Any:
    """One value, or a list where there are none or several; bytes that are UTF-8 as text."""
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if kind == "bytes_list":
        values = [value if error else text for value in values for text, error in [decode(value)]]
    return values[0] if len(values) == 1 else values


TFRECORD = Format((".tfrecord", ".tfrecords"), read)
