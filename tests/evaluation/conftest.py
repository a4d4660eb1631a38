"""Models for evaluation."""

import pytest

import tfgpt2
from tfgpt2.hub import ASSETS


@pytest.fixture(scope="session")
def load():
    """Loads model and tokenizer of a directory, once."""
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
