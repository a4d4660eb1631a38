"""Settings of a job that do not depend on its task."""

from __future__ import annotations

import dataclasses
import re

from tfgpt2.errors import value_error
from tfgpt2.validation import check_choice, check_count

# The formats are not imported here, since the command line reads these settings for its help.
OUTPUT_FORMATS = ("jsonl", "parquet")
ON_ERROR = ("record", "stop")


def _field(default, help: str, **metadata: str):
    return dataclasses.field(default=default, metadata={"help": help} | metadata)


@dataclasses.dataclass(frozen=True)
class JobSettings:
    """Settings of a job; the metadata `help` of each field documents it.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> JobSettings(shard="0/4").shard_numbers
        (0, 4)
    """

    text_column: str = _field("text", "Column of the texts.")
    batch_size: int = _field(32, "Rows that the model reads at once.", short="-b")
    rows_per_file: int = _field(
        1024, "Rows per output file, and per sort by length; the most that a kill can lose."
    )
    format: str = _field("jsonl", "jsonl or parquet.")
    on_error: str = _field("record", "Bad rows: record in column `error`, or stop.")
    result_prefix: str = _field("", "Put before the names of the result columns.")
    shard: str = _field("0/1", "i/n: every n-th output file, starting with the i-th, from 0.")
    jit_compile: bool = _field(True, "Compile with XLA, unless the model is an export.")

    def __post_init__(self) -> None:
        """Checks the values."""
        check_count("batch_size", self.batch_size, least=1, optional=False)
        check_count("rows_per_file", self.rows_per_file, least=1, optional=False)
        check_choice("format", self.format, OUTPUT_FORMATS)
        check_choice("on_error", self.on_error, ON_ERROR)
        found = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        if not found or int(found[1]) >= int(found[2]):
            raise value_error(
                "`shard` must be i/n with i in [0, n).",
                fix="The first of four is 0/4, the last 3/4.",
                shard=self.shard,
            )

    @property
    def shard_numbers(self) -> tuple[int, int]:
        """`i` and `n`."""
        index, count = map(int, self.shard.split("/"))
        return index, count

    @property
    def decisive(self) -> dict[str, object]:
        """Settings that decide what is in the output files."""
        values = dataclasses.asdict(self)
        return {name: values[name] for name in values if name not in ("shard", "on_error")}
