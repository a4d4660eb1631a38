"""Makes `contrastive.json`: PyTorch transformers on `tests/support/contrastive_cases`.

Needs an environment of its own with torch and the last transformers that has contrastive search,
4.55.4:

    python -m tests.golden.make_contrastive_golden
"""

import json
from pathlib import Path

import torch
import transformers

from tests.support import (
    contrastive_cases,
    torch_generation,
)

HERE = Path(__file__).parent


@torch.no_grad()
def search(name: str) -> dict:
    """New tokens of each prompt, and the log-probabilities of those before its end."""
    case = contrastive_cases.CASES[name]
    ids, mask = contrastive_cases.prompts(name)
    out = torch_generation.model(case).generate(
        torch.tensor(ids), attention_mask=torch.tensor(mask), do_sample=False,
        return_dict_in_generate=True, output_logits=True, **case.options,
    )  # fmt: skip
    new = out.sequences[:, ids.shape[1] :]
    logprobs = torch.log_softmax(torch.stack(out.logits, dim=1).float(), dim=-1)
    chosen = logprobs.gather(2, new[..., None])[..., 0]
    return {
        "tokens": new.tolist(),
        "logprobs": [[round(x, 5) for x in row] for row in chosen.tolist()],
    }


def main() -> None:
    """Searches every case and writes the file."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    lines = []
    for name in contrastive_cases.CASES:
        found = search(name)
        lines.append(f"  {json.dumps(name)}: {json.dumps(found, separators=(',', ':'))}")
        print(name, found["tokens"])
    text = f'{{"versions": {json.dumps(versions)}, "found": {{\n' + ",\n".join(lines) + "\n}}\n"
    (HERE / "contrastive.json").write_text(text)


if __name__ == "__main__":
    main()
