#!/usr/bin/env bash
# pyarrow: a column of integers takes 2.5 as 2, without an error.
#
# Good guess: `pa.array([2.5], pa.int64())` raises ArrowInvalid, "Float value 2.5 was truncated converting to int64".
#   `safe=True` is the default ("check for overflows or other unsafe conversions"), `.cast` raises so, 300 in an int8 and
#   "x" in an int64 raise, and 2**53 + 1 in a float64 raises because it is not exact.
# What happens: the fraction is dropped, from Python floats by `pa.array`, `pa.scalar` and `Table.from_pylist` with a
#   schema; the same float in a NumPy array raises.
# Seen with: pyarrow 26.0.1 and 25.0.1, Python 3.11.
# Source: documentation of pyarrow.array (`safe`); apache/arrow#35584, closed.
# In this project: `tfgpt2.batch.formats.parquet.misfits` compares values with what is kept of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "pyarrow==26.0.1" "numpy==2.4.6" 2>/dev/null
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
import pyarrow as pa


def outcome(function):
    try:
        return str(function())
    except pa.ArrowException as error:
        return f"{type(error).__name__}: {error}"


schema = pa.schema([("n", pa.int64())])
found = {
    "pa.array([2.5], pa.int64())": outcome(lambda: pa.array([2.5], pa.int64()).to_pylist()),
    "pa.array([2.5], pa.int64(), safe=True)": outcome(lambda: pa.array([2.5], pa.int64(), safe=True).to_pylist()),
    "pa.scalar(2.5, pa.int64())": outcome(lambda: pa.scalar(2.5, pa.int64()).as_py()),
    "pa.Table.from_pylist([{'n': 2.5}], schema)": outcome(lambda: pa.Table.from_pylist([{"n": 2.5}], schema).to_pylist()),
    "pa.array(np.array([2.5]), pa.int64())": outcome(lambda: pa.array(np.array([2.5]), pa.int64()).to_pylist()),
    "pa.array([2.5]).cast(pa.int64())": outcome(lambda: pa.array([2.5]).cast(pa.int64()).to_pylist()),
    "pa.array([2**53 + 1], pa.float64())": outcome(lambda: pa.array([2**53 + 1], pa.float64()).to_pylist()),
}
print("pyarrow", pa.__version__)
for name, value in found.items():
    print(f"{name:45} {value}")
values = list(found.values())
silent = values[:4] == ["[2]", "[2]", "2", "[{'n': 2}]"]
sys.exit(not (silent and all(value.startswith("ArrowInvalid") for value in values[4:])))
END
