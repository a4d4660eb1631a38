"""Makes `beam.json`: the beam searches of PyTorch transformers on `tests/support/beam_cases`.

Run with an environment that has torch and transformers:

    python -m tests.golden.make_beam_golden
"""

import json
from pathlib import Path

import torch
import transformers

from tests.support import (
    beam_cases,
    torch_beam,
)

HERE = Path(__file__).parent


def main() -> None:
    """Searches every case and writes the file."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    lines = []
    for name in beam_cases.CASES:
        found = torch_beam.run(name)
        found["scores"] = [round(score, 6) for score in found["scores"]]
        lines.append(f"  {json.dumps(name)}: {json.dumps(found)}")
        print(name, {len(row) for row in found["sequences"]}, found["scores"])
    text = f'{{"versions": {json.dumps(versions)}, "found": {{\n' + ",\n".join(lines) + "\n}}\n"
    (HERE / "beam.json").write_text(text)


if __name__ == "__main__":
    main()
