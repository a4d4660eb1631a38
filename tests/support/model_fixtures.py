"""Fixtures of the model tests: models with the shared random weights, and recorded differences."""

import json

import pytest
from safetensors.numpy import save_file

from tests.support import model_cases as cases
from tfgpt2 import TFGPT2LMHeadModel


@pytest.fixture
def record_difference(figure):
    """Records a difference from PyTorch or from a slow twin, for the summary of the run."""

    def record(name: str, value: float) -> None:
        figure(f"largest difference, float32: {name}", value)

    return record


@pytest.fixture(scope="session")
def load_case(tmp_path_factory):
    """Loads our model of a case from a checkpoint that the safetensors library wrote."""
    loaded = {}

    def load(case: cases.Case, cls=TFGPT2LMHeadModel):
        key = (json.dumps(case.config, sort_keys=True), cls)
        if key not in loaded:
            config = cases.config_of(case)
            folder = tmp_path_factory.mktemp("checkpoint")
            (folder / "config.json").write_text(json.dumps(config))
            save_file(cases.weights(config), folder / "model.safetensors")
            loaded[key] = cls.from_pretrained(folder)
        return loaded[key]

    return load
