"""Models with the shared random weights, and the differences that a run prints."""

import json

import pytest
from safetensors.numpy import save_file

from tests.support import model_cases as cases
from tfgpt2 import TFGPT2LMHeadModel

collect_ignore = ["torch_gpt2.py"]  # no tests; and it cannot be imported without torch


@pytest.fixture
def worst(figure):
    """Notes a difference from PyTorch or from a slow twin."""

    def note(name: str, value: float) -> None:
        figure(f"largest difference, float32: {name}", value)

    return note


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """From a case to our model, loaded from a checkpoint that the safetensors library wrote."""
    made = {}

    def make(case: cases.Case, cls=TFGPT2LMHeadModel):
        key = (json.dumps(case.config, sort_keys=True), cls)
        if key not in made:
            config = cases.config_of(case)
            folder = tmp_path_factory.mktemp("checkpoint")
            (folder / "config.json").write_text(json.dumps(config))
            save_file(cases.weights(config), folder / "model.safetensors")
            made[key] = cls.from_pretrained(folder)
        return made[key]

    return make
