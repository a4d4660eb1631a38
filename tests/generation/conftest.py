"""Small models with random weights, shared by the tests of generation."""

import json

import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from tests.support import greedy_cases  # noqa: E402
from tests.support import model_cases as cases  # noqa: E402
from tfgpt2 import TFGPT2LMHeadModel

MODES = {
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, autograph=False),
    "jit": lambda function: tf.function(function, autograph=False, jit_compile=True),
}


@pytest.fixture(params=["eager", pytest.param("graph", marks=pytest.mark.long), "jit"])
def run_as(request):
    """Makes a function run eagerly, as a graph, or compiled."""
    return MODES[request.param]


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """From fields of a configuration and a seed to a model with random weights."""
    made = {}

    def make(seed=0, **fields):
        config = greedy_cases.config_of(greedy_cases.GreedyCase(fields, (), {}))
        key = (json.dumps(config, sort_keys=True), seed)
        if key not in made:
            folder = tmp_path_factory.mktemp("checkpoint")
            (folder / "config.json").write_text(json.dumps(config))
            save_file(cases.weights(config, seed), folder / "model.safetensors")
            made[key] = TFGPT2LMHeadModel.from_pretrained(folder)
        return made[key]

    return make


@pytest.fixture(scope="session")
def model(build):
    return build()
