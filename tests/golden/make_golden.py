"""Makes `gpt2.npz`: what PyTorch transformers computes for the cases of `tests/modeling/cases.py`.

Run with an environment that has torch and transformers 4.57, the last version with `head_mask`:

    python tests/golden/make_golden.py

Only results are stored; weights and inputs come from numpy's frozen legacy generator.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "modeling"))

import cases  # noqa: E402
import torch  # noqa: E402
import torch_gpt2  # noqa: E402
import transformers  # noqa: E402


def main() -> None:
    """Computes every case and writes the file."""
    stored = {}
    for name, case in cases.CASES.items():
        outputs = torch_gpt2.run(torch_gpt2.model(case), case)
        if not case.past:
            del outputs["past_key_values"]  # large, and compared where it is read
        stored |= cases.flat_outputs(name, outputs)
    for name in cases.ACTIVATIONS:
        case = cases.Case({"activation_function": name, "n_layer": 1})
        outputs = torch_gpt2.run(torch_gpt2.model(case), case)
        stored |= cases.flat_outputs(f"activation_{name}", {"logits": outputs["logits"]})
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    np.savez_compressed(HERE / "gpt2.npz", versions=versions, **stored)
    size = (HERE / "gpt2.npz").stat().st_size
    print(f"{len(stored)} arrays from {versions}: {size} bytes")


if __name__ == "__main__":
    main()
