"""Makes `beam.json`: the beam searches of PyTorch transformers on `tests/generation/beam_cases`.

Run with an environment that has torch and transformers:

    python tests/golden/make_beam_golden.py
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "modeling"), str(HERE.parent / "generation")]

import beam_cases  # noqa: E402
import torch  # noqa: E402
import torch_beam  # noqa: E402
import transformers  # noqa: E402


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
