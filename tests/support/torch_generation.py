"""PyTorch transformers' `generate` on the greedy cases; needs torch, and nothing of the package."""

import torch
import transformers

from tests.support import greedy_cases, torch_gpt2
from tests.support import model_cases as cases


def model(case):
    config = greedy_cases.config_of(case)
    weights = cases.weights(config, case.seed)
    config.pop("model_type")
    config = transformers.GPT2Config(**config)
    result = transformers.GPT2LMHeadModel._from_config(config, attn_implementation="eager")
    torch_gpt2.load(result, weights)
    return result.eval()


@torch.no_grad()
def run(case):
    ids, mask = greedy_cases.prompts(case)
    found = model(case).generate(
        torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        do_sample=False,
        pad_token_id=0,
        **case.options,
    )
    return found.tolist()
