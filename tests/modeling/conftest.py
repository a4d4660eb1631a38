"""Models with the shared random weights, and figures that the run prints at its end."""

import json

import cases
import pytest
from safetensors.numpy import save_file

from tfgpt2 import TFGPT2LMHeadModel

_FIGURES: dict[str, float] = {}


@pytest.fixture
def worst():
    """Remembers the largest value under a name; the run prints all of them at its end."""

    def remember(name: str, value: float) -> None:
        _FIGURES[name] = max(value, _FIGURES.get(name, 0.0))

    return remember


def pytest_terminal_summary(terminalreporter):
    if _FIGURES:
        terminalreporter.section("largest absolute differences, float32")
        for name, value in sorted(_FIGURES.items()):
            terminalreporter.write_line(f"{value:.2e}  {name}")


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
