"""Makes `generation.json`: what PyTorch transformers generates for `tests/generation/greedy_cases`.

Run with an environment that has torch and transformers:

    python tests/golden/make_generation_golden.py
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "modeling"), str(HERE.parent / "generation")]

import greedy_cases  # noqa: E402
import torch  # noqa: E402
import torch_generation  # noqa: E402
import transformers  # noqa: E402


def main() -> None:
    """Generates every case and writes the file."""
    found = {name: torch_generation.run(case) for name, case in greedy_cases.CASES.items()}
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    text = json.dumps({"versions": versions, "sequences": found}, indent=1)
    (HERE / "generation.json").write_text(text.replace(",\n    ", ", ") + "\n")
    print({name: [len(row) for row in rows] for name, rows in found.items()})


if __name__ == "__main__":
    main()
