"""Small random checkpoints that are made without the package, loaded models, and their outputs."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.support import model_cases as cases

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
SMALL_SHARDS = 4000  # bytes


def make_checkpoint(folder, change=lambda weights: weights, **fields):
    """Writes the checkpoint of a configuration, its weights changed by a function."""
    folder.mkdir(exist_ok=True)
    config = cases.config_of(cases.Case(fields))
    (folder / "config.json").write_text(json.dumps(config))
    weights = change(cases.weights(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def find_in(folder):
    """Returns what `Repository(folder).find` is."""
    return lambda name: path if (path := Path(folder) / name).is_file() else None


def load_language_model(folder, **options):
    """Loads a language model with `from_pretrained`."""
    from tfgpt2 import TFGPT2LMHeadModel

    return TFGPT2LMHeadModel.from_pretrained(folder, **options)


def logits_of(model):
    """Returns the logits of a language model for `IDS`."""
    return model(IDS).logits.numpy()


def load_model(kind, folder):
    """Loads a model of a class as `from_pretrained` does."""
    from tfgpt2.checkpoints.detection import load_config, open_checkpoint
    from tfgpt2.checkpoints.loader import WeightLoader
    from tfgpt2.nn.layers import initial_weights

    find = find_in(folder)
    loader = WeightLoader(open_checkpoint(find))
    with initial_weights(loader.read):
        model = kind(load_config(find))
    loader.check(str(folder))
    return model


def first_output(model, ids):
    """Returns logits, or the hidden states of a bare model."""
    ids = np.asarray(ids)
    if "Double" in type(model).__name__:
        return model(ids[:, None]).logits.numpy()[:, 0]
    return np.asarray(model(ids)[0])
