"""What the tests of the formats share: finding files, loading models, comparing outputs."""

from pathlib import Path

import numpy as np


def finder(folder):
    """What `Repository(folder).find` is."""
    return lambda name: path if (path := Path(folder) / name).is_file() else None


def load(kind, folder):
    """Loads a model as `from_pretrained` does."""
    from tfgpt2.checkpoints.loader import WeightLoader
    from tfgpt2.checkpoints.registry import load_config, open_checkpoint
    from tfgpt2.nn.layers import initial_weights

    find = finder(folder)
    loader = WeightLoader(open_checkpoint(find).reader)
    with initial_weights(loader.read):
        built = kind(load_config(find))
    loader.check(str(folder))
    return built


def first_output(built, ids):
    """Logits, or hidden states of a bare model."""
    ids = np.asarray(ids)
    if "Double" in type(built).__name__:
        return built(ids[:, None]).logits.numpy()[:, 0]
    return np.asarray(built(ids)[0])
