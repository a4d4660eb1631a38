"""Damaged checkpoints and configurations: an explained error, or a correct result."""

import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support import model_cases, mutated_files, other_checkpoints
from tests.support.paths import GOLDEN

FORMATS = GOLDEN / "formats"
CASES = (
    "safetensors",
    "torch_zip",
    "torch_legacy",
    "tf_lm",
    "flax",
    "tf1",
    "keras_hub",
    "gguf",
    "llm_c",
)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A folder with an undamaged checkpoint of each format."""
    folder = tmp_path_factory.mktemp("whole")
    for path in sorted(FORMATS.glob("*.tar.xz")):
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    draw = np.random.default_rng(0)
    (folder / "safetensors").mkdir()
    shape = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 12, "n_positions": 6}
    (folder / "safetensors" / "config.json").write_text(
        json.dumps({"model_type": "gpt2"} | shape, indent=2)
    )
    sizes = {"wte.weight": (12, 8), "wpe.weight": (6, 8), "h.0.attn.c_attn.weight": (8, 24)}
    sizes |= {f"h.0.ln_{i}.{part}": (8,) for i in (1, 2) for part in ("weight", "bias")}
    save_file({k: draw.standard_normal(s).astype("f4") for k, s in sizes.items()},
              folder / "safetensors" / "model.safetensors")  # fmt: skip
    (folder / "gguf").mkdir()
    with tarfile.open(GOLDEN / "gguf" / "gguf.tar.xz") as archive:
        (folder / "gguf" / "model.gguf").write_bytes(archive.extractfile("Q4_0.gguf").read())
    (folder / "llm_c").mkdir()
    config = model_cases.config_of(model_cases.Case())
    weights = model_cases.weights(config)
    other_checkpoints.write_llm_c(folder / "llm_c" / "model.bin", weights, config)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.long) for s in (1, 2))])
def test_damaged_checkpoints(seed, whole, count, amount):
    number, seed = amount(20 if seed == 0 else 400), 1000 * amount(1) + seed
    command = [sys.executable, mutated_files.__file__, whole, seed, number, *CASES]
    done = subprocess.run(
        [str(x) for x in command], capture_output=True, text=True, timeout=900 * amount(1)
    )
    assert done.returncode == 0, f"seed {seed}: the process died\n{done.stderr[-2000:]}"
    found = dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))
    for case, of_case in found.items():
        assert sum(of_case["results"].values()) == number
        count(f"damaged {case}, refused", of_case["results"].get("refused", 0))
        count(f"damaged {case}, loaded", of_case["results"].get("loaded", 0))
    wrong = [line for of_case in found.values() for line in of_case["wrong"]]
    assert not wrong, "\n".join(map(str, wrong))


def test_undetected_damage_is_found():
    whole = {}, {"a": np.zeros(3, "f4")}
    changed = {}, {"a": np.array([0, 1, 1], "f4")}
    assert mutated_files.find_undetected_damage("tf1", "flip", 1, whole, whole) is None
    assert "under a checksum" in mutated_files.find_undetected_damage(
        "tf1", "flip", 1, whole, changed
    )
    assert "1 were overwritten" in mutated_files.find_undetected_damage(
        "flax", "flip", 1, whole, changed
    )
