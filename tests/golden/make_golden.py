"""Makes `gpt2.npz`: what PyTorch transformers computes for `tests/support/model_cases.py`.

Run with an environment that has torch and transformers 4.57, the last version with `head_mask`:

    python -m tests.golden.make_golden

Only results are stored; weights and inputs come from numpy's frozen legacy generator.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

from tests.support import model_cases as cases
from tests.support import torch_gpt2

HERE = Path(__file__).parent


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
