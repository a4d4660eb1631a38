"""Makes `group_beam.json`: PyTorch transformers' searches on `tests/support/group_beam_cases`.

Needs an environment of its own with torch and the last transformers that has group beam search,
4.55.4:

    python -m tests.golden.make_group_beam_golden
"""

import json
from pathlib import Path

import torch
import transformers

from tests.support import (
    group_beam_cases,
    torch_beam,
    torch_generation,
)

HERE = Path(__file__).parent


def main() -> None:
    """Searches every case and writes the file; a text is stored without prompt and padding."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    lines = []
    for name, case in group_beam_cases.CASES.items():
        ids, mask = group_beam_cases.prompts(name)
        found = torch_beam.search(torch_generation.model(case), ids, mask, case.options)
        found["sequences"] = [row[ids.shape[1] :] for row in found["sequences"]]
        found["scores"] = [round(score, 6) for score in found["scores"]]
        lines.append(f"  {json.dumps(name)}: {json.dumps(found, separators=(',', ':'))}")
        print(name, {len(row) for row in found["sequences"]}, found["scores"])
    text = f'{{"versions": {json.dumps(versions)}, "found": {{\n' + ",\n".join(lines) + "\n}}\n"
    (HERE / "group_beam.json").write_text(text)


if __name__ == "__main__":
    main()
