"""Safetensors files exchanged with PyTorch transformers, in both directions."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support import model_cases as cases
from tests.support.checkpoint_loading import IDS, SMALL_SHARDS, load_language_model, logits_of
from tfgpt2 import TFGPT2Model

KINDS = [{}, {"tie_word_embeddings": False}, {"add_cross_attention": True}, {"n_inner": 10}]


@pytest.fixture
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


def their_logits(torch, folder, **options):
    import transformers

    model, info = transformers.GPT2LMHeadModel.from_pretrained(
        folder, output_loading_info=True, **options
    )
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert not set(info["missing_keys"]) - {"lm_head.weight"}
    with torch.no_grad():
        return model.float().eval()(torch.tensor(IDS)).logits.numpy()


@pytest.mark.parametrize("fields", KINDS, ids=str)
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, SMALL_SHARDS])
def test_pytorch_loads_our_files(fields, shard_bytes, checkpoint, tmp_path, torch):
    model = load_language_model(checkpoint(**fields))
    model.save_pretrained(tmp_path / "ours", max_shard_size=shard_bytes)
    np.testing.assert_allclose(their_logits(torch, tmp_path / "ours"), logits_of(model), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, SMALL_SHARDS])
def test_pytorch_loads_half_precision(dtype, shard_bytes, checkpoint, tmp_path, torch):
    load_language_model(checkpoint()).save_pretrained(
        tmp_path / "s", dtype=dtype, max_shard_size=shard_bytes
    )
    np.testing.assert_allclose(
        their_logits(torch, tmp_path / "s", dtype="float32"),
        logits_of(load_language_model(tmp_path / "s")),
        atol=1e-5,
    )


@pytest.mark.parametrize("fields", KINDS, ids=str)
@pytest.mark.parametrize("shard_size", ["5GB", "4KB"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_we_load_files_of_pytorch(fields, shard_size, dtype, tmp_path, torch):
    import transformers

    config = cases.config_of(cases.Case(fields))
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config.from_dict(config))
    theirs.to(getattr(torch, dtype)).save_pretrained(tmp_path, max_shard_size=shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shard_size == "4KB"
    np.testing.assert_allclose(
        logits_of(load_language_model(tmp_path)),
        their_logits(torch, tmp_path, dtype="float32"),
        atol=1e-5,
    )


def test_we_load_a_bare_model_of_pytorch(tmp_path, torch):
    import transformers

    theirs = transformers.GPT2Model(transformers.GPT2Config(**cases.BASE))
    theirs.save_pretrained(tmp_path)
    assert "wte.weight" in load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(IDS)).last_hidden_state.numpy()
    ours = TFGPT2Model.from_pretrained(tmp_path)
    np.testing.assert_allclose(ours(IDS).last_hidden_state, expected, atol=1e-5)
    assert load_language_model(tmp_path)(IDS).logits.shape == (2, 4, 23)


def test_pytorch_loads_our_bare_model(checkpoint, tmp_path, torch):
    import transformers

    ours = TFGPT2Model.from_pretrained(checkpoint())
    ours.save_pretrained(tmp_path / "bare")
    theirs, info = transformers.GPT2Model.from_pretrained(
        tmp_path / "bare", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        there = theirs.eval()(torch.tensor(IDS)).last_hidden_state.numpy()
    np.testing.assert_allclose(ours(IDS).last_hidden_state, there, atol=1e-5)
