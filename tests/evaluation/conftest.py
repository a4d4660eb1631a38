"""The models that both sides load."""

import pytest

import tfgpt2
from tfgpt2.hub import ASSETS

collect_ignore = ["torch_recipes.py"]  # no tests; and it cannot be imported without torch


@pytest.fixture(scope="session")
def load():
    """From a directory to our model and tokenizer, loaded once."""
    made = {}

    def make(folder):
        if folder not in made:
            made[folder] = (
                tfgpt2.TFGPT2LMHeadModel.from_pretrained(folder),
                tfgpt2.TFGPT2Tokenizer.from_pretrained(folder),
            )
        return made[folder]

    return make


@pytest.fixture(scope="session")
def bundled():
    return ASSETS / "shakespeare-tiny"
