"""Peak memory of loading: at most 1.3 times the weights, beyond the framework's own."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.support import model_cases as cases
from tfgpt2.checkpoints.writers.base import StoredTensor
from tfgpt2.checkpoints.writers.safetensors import write_file

LIMIT = 1.3
# Blocks, width and heads of the published sizes.
SIZES = {
    "distilgpt2": (6, 768, 12),
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
}

# Prints the peak increase of resident memory in bytes while a model is loaded. Linux resets the
# high-water mark of a process that writes 5 into its clear_refs.
PROGRAM = """
import re, sys
from tfgpt2 import TFGPT2LMHeadModel

def status(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

TFGPT2LMHeadModel.from_pretrained(sys.argv[1])([[1]])  # loads the framework
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
model = TFGPT2LMHeadModel.from_pretrained(sys.argv[2])
print(status("VmHWM") - before, 4 * model.num_parameters())
logits = model([[1, 2, 3]], use_cache=False).logits.numpy()
assert logits.shape == (1, 3, 50257) and (abs(logits) < 1e6).all(), logits
"""


def write_checkpoint(folder, config, dtype):
    """Writes a checkpoint without building a model or drawing random numbers."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_file(
        [
            StoredTensor(
                key, np.dtype(dtype), shape, lambda shape=shape: np.full(shape, 0.01, dtype)
            )
            for key, shape in cases.shapes(config).items()
        ],
        folder / "model.safetensors",
    )


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("distilgpt2", "float32"),
        pytest.param("gpt2", "float16", marks=pytest.mark.long),
        *(pytest.param(n, "float32", marks=pytest.mark.long) for n in SIZES if n != "distilgpt2"),
    ],
)
def test_peak_of_loading(name, dtype, tmp_path, figure):
    layers, width, heads = SIZES[name]
    config = cases.config_of(
        cases.Case({"n_layer": layers, "n_embd": width, "n_head": heads,
                    "vocab_size": 50257, "n_positions": 1024})
    )  # fmt: skip
    write_checkpoint(tmp_path / "large", config, dtype)
    write_checkpoint(tmp_path / "small", cases.config_of(cases.Case()), "float32")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "small"), str(tmp_path / "large")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    (tmp_path / "large" / "model.safetensors").unlink()
    assert done.returncode == 0, done.stderr
    risen, size = map(int, done.stdout.split())
    figure(f"peak memory of loading / size of the weights: {name}, stored as {dtype}", risen / size)
    assert risen <= LIMIT * size, f"{risen} bytes for {size} bytes of weights"
