"""Keys and paths: every weight of every class has PyTorch's name."""

import pytest

from tests.support import model_cases as cases
from tfgpt2 import GPT2Config, TFGPT2LMHeadModel, TFGPT2Model
from tfgpt2.checkpoints.names import is_buffer, key_from_path, with_prefix


@pytest.mark.parametrize("name", ["plain", "untied", "cross", "n_inner"])
def test_every_weight_has_its_key(name):
    config = cases.config_of(cases.CASES[name])
    model = TFGPT2LMHeadModel(GPT2Config.from_dict(config))
    ours = {key_from_path(weight.path): tuple(weight.shape) for weight in model.weights}
    assert ours == cases.shapes(config)


def test_a_model_may_have_the_name_of_a_part():
    for name in ("transformer", "h_0", "lm_head", "score"):
        model = TFGPT2Model(GPT2Config(**cases.BASE), name=name)
        keys = [key_from_path(weight.path) for weight in model.weights]
        assert set(keys) == set(cases.shapes(cases.BASE)), name


def test_ten_blocks_and_more():
    assert key_from_path("m/transformer/h_10/ln_1/bias") == "transformer.h.10.ln_1.bias"


def test_a_foreign_path():
    with pytest.raises(ValueError, match="must contain a part of a GPT-2 model"):
        key_from_path("dense/kernel")


@pytest.mark.parametrize("part", ["attn", "crossattention"])
def test_buffers(part):
    assert is_buffer(f"h.0.{part}.bias") and is_buffer(f"transformer.h.11.{part}.masked_bias")
    assert not is_buffer(f"h.0.{part}.c_attn.bias") and not is_buffer("h.0.ln_1.bias")


def test_prefixes():
    for key in cases.shapes(cases.BASE):
        assert with_prefix(key.removeprefix("transformer.")) == key == with_prefix(key)
