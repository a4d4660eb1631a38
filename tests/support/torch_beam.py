"""PyTorch transformers' beam search on the cases; needs torch, and nothing of the package."""

import torch

from tests.support import beam_cases, torch_generation


@torch.no_grad()
def search(model, ids, mask, options):
    """Sequences and their scores."""
    options = {name: value for name, value in options.items() if value is not None}
    options.setdefault("eos_token_id", None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are tiny: more threads mostly wait for each other
    out = model.generate(
        torch.tensor(ids), attention_mask=torch.tensor(mask), do_sample=False,
        return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip
    torch.set_num_threads(threads)
    return {"sequences": out.sequences.tolist(), "scores": out.sequences_scores.tolist()}


def run(name):
    case = beam_cases.CASES[name]
    ids, mask = beam_cases.prompts(name)
    return search(torch_generation.model(case), ids, mask, case.options)
