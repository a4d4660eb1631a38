"""PyTorch transformers' `generate` with any options, beside the package's; needs torch."""

import functools
import json

import numpy as np
import torch
import transformers

from tests.support import greedy_cases, torch_gpt2
from tests.support import model_cases as cases

PROMPT_SEED = 200


@functools.cache
def _model(fields: str, seed: int):
    config = greedy_cases.config_of(greedy_cases.GreedyCase(json.loads(fields), (), {}))
    weights = cases.weights(config, seed)
    config.pop("model_type")
    made = transformers.GPT2LMHeadModel._from_config(
        transformers.GPT2Config(**config), attn_implementation="eager"
    )
    torch_gpt2.load(made, weights)
    return made.eval()


def model(seed=0, **fields):
    """The model that the fixture `build` makes of the same arguments, in PyTorch."""
    return _model(json.dumps(fields, sort_keys=True), seed)


def prompts(lengths, seed=0, size=greedy_cases.SMALL["vocab_size"], padding="left"):
    """Padded ids and their mask `[B, P]`."""
    width = max(lengths)
    ids = np.random.RandomState(PROMPT_SEED + seed).randint(0, size, (len(lengths), width))
    mask = (width - np.arange(width) <= np.array(lengths)[:, None]).astype(np.int64)
    mask = mask if padding == "left" else mask[:, ::-1].copy()
    return ids * mask, mask


class Guide(transformers.LogitsProcessor):
    """Classifier-free guidance that reads each text from its prompt's last token on.

    transformers' own processor remembers texts by row and is not told when beams change rows, so
    with beams it compares a text with the continuation of another one.
    """

    def __init__(self, model, scale, prompt):
        self.model, self.scale, self.first = model, scale, prompt - 1

    def __call__(self, input_ids, scores):
        without = self.model(input_ids[:, self.first :], use_cache=False).logits[:, -1]
        with_it, without = scores.log_softmax(-1), without.log_softmax(-1)
        return self.scale * (with_it - without) + without


@torch.no_grad()
def run(theirs, ids, mask, **options):
    """What PyTorch generates: a `ModelOutput`."""
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None} | options
    for name in ("negative_prompt_ids", "negative_prompt_attention_mask", "inputs_embeds"):
        if name in options:
            options[name] = torch.tensor(options[name])
    if options.get("num_beams", 1) > 1 and options.get("guidance_scale"):
        guide = Guide(theirs, options.pop("guidance_scale"), ids.shape[1])
        options["logits_processor"] = transformers.LogitsProcessorList([guide])
    inputs = () if ids is None else (torch.tensor(ids),)
    return theirs.generate(
        *inputs, attention_mask=torch.tensor(mask), return_dict_in_generate=True, **options
    )
