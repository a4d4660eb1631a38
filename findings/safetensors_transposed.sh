#!/bin/bash
# safetensors: a transposed numpy array is saved with its numbers in another order, without a word.
#
# The guess: `safetensors.numpy.save_file({"a": x.T})` stores the values of `x.T`, as 0.7.0 did, or
# raises an error, as `safetensors.torch.save_file` does for a tensor that is not contiguous.
# What happens: it writes the memory of `x` under the shape of `x.T`; loading gives other values.
# Version: safetensors 0.8.0 (0.7.0 stored the values). Source: safetensors issue 825;
# bindings/python/py_src/safetensors/numpy.py passes the array's address.
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/program.py" <<'PYTHON'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

wanted = np.arange(6, dtype="float32").reshape(2, 3).T
save_file({"a": wanted}, sys.argv[1])
found = load_file(sys.argv[1])["a"]
same = bool(np.array_equal(found, wanted))
print("safetensors", safetensors.__version__)
print("saved", wanted.tolist(), "loaded", found.tolist(), "same:", same)
raise SystemExit(same is not (safetensors.__version__ == "0.7.0"))
PYTHON
for version in 0.7.0 0.8.0; do
    "$folder/venv/bin/pip" install --quiet numpy==2.3.4 "safetensors==$version"
    "$folder/venv/bin/python" "$folder/program.py" "$folder/a.safetensors"
done
