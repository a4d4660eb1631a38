"""Makes `generation.json`: what PyTorch transformers generates for `tests/support/greedy_cases`.

Run with an environment that has torch and transformers:

    python -m tests.golden.make_generation_golden
"""

import json
from pathlib import Path

import torch
import transformers

from tests.support import (
    greedy_cases,
    torch_generation,
)

HERE = Path(__file__).parent


def main() -> None:
    """Generates every case and writes the file."""
    found = {name: torch_generation.run(case) for name, case in greedy_cases.CASES.items()}
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    text = json.dumps({"versions": versions, "sequences": found}, indent=1)
    (HERE / "generation.json").write_text(text.replace(",\n    ", ", ") + "\n")
    print({name: [len(row) for row in rows] for name, rows in found.items()})


if __name__ == "__main__":
    main()
