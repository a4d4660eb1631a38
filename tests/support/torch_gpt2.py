"""PyTorch transformers' GPT-2 on the shared cases; needs torch, and nothing of the package."""

import numpy as np
import torch
import transformers

from tests.support import model_cases as cases

IS_4 = transformers.__version__.startswith("4.")


def model(case):
    """A model with the case's random weights, in eval mode and with eager attention."""
    config = cases.config_of(case)
    config.pop("model_type")
    config = transformers.GPT2Config(**config)
    result = transformers.GPT2LMHeadModel._from_config(config, attn_implementation="eager")
    load(result, cases.weights(cases.config_of(case)))
    return result.eval()


def load(torch_model, weights):
    state = {key: torch.tensor(value) for key, value in weights.items()}
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    missing, unexpected = torch_model.load_state_dict(state, strict=False)
    assert not unexpected and not [key for key in missing if "attn." not in key]


@torch.no_grad()
def run(torch_model, case):
    """Results of the last call by field, past_key_values as `[2, B, N, S, H]` per block."""
    past = None
    for given in cases.split_calls(case, cases.inputs(case)):
        tensors = {name: torch.tensor(value) for name, value in given.items()}
        if "input_ids" in tensors:
            tensors["labels"] = tensors["input_ids"]
        out = torch_model(
            **tensors,
            past_key_values=past,
            use_cache=True,
            output_hidden_states=True,
            output_attentions=True,
        )
        past = out.past_key_values
    result = {"logits": out.logits, "hidden_states": out.hidden_states}
    result["attentions"] = out.attentions
    if "encoder_hidden_states" in given:
        result["cross_attentions"] = out.cross_attentions
    if out.loss is not None:
        result["loss"] = out.loss
    result["past_key_values"] = [torch.stack(pair) for pair in layers(past)]
    return {
        name: [np.asarray(part) for part in value]
        if isinstance(value, (list, tuple))
        else np.asarray(value)
        for name, value in result.items()
    }


def layers(cache):
    """Keys and values of each block of a torch cache."""
    cache = getattr(cache, "self_attention_cache", cache)
    return [(layer.keys, layer.values) for layer in cache.layers]
