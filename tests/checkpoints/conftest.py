"""What the checkpoint tests share: small random checkpoints, made without the package."""

import json

import pytest
from safetensors.numpy import save_file

from tests.support import model_cases as cases


@pytest.fixture
def checkpoint(tmp_path):
    """From configuration fields to a directory that the safetensors library filled."""

    def make(change=lambda weights: weights, name="checkpoint", **fields):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        config = cases.config_of(cases.Case(fields))
        weights = change(cases.weights(config))
        (folder / "config.json").write_text(json.dumps(config))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make
