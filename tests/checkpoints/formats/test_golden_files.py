"""Every reader on files that the original library wrote, compared with what it computes."""

import numpy as np
import pytest

import tfgpt2
from tests.support.checkpoint_loading import find_in, first_output, load_model
from tfgpt2.checkpoints.detection import load_config, open_checkpoint
from tfgpt2.checkpoints.names import is_buffer, with_prefix

LM, BASE = "TFGPT2LMHeadModel", "TFGPT2Model"
CASES = {
    # case: format, class, weights beyond the body
    "torch_zip": ("torch", LM, ()),
    "torch_legacy": ("torch", LM, ()),
    "torch_sharded": ("torch", LM, ()),
    "torch_base": ("torch", LM, ()),
    "torch_untied": ("torch", LM, ("lm_head",)),
    "torch_float16": ("torch", LM, ()),
    "torch_bfloat16": ("torch", LM, ()),
    "tf_lm": ("h5", LM, ()),
    "tf_base": ("h5", BASE, ()),
    "tf_double_heads": ("h5", "TFGPT2DoubleHeadsModel", ("multiple_choice_head",)),
    "tf_classifier": ("h5", "TFGPT2ForSequenceClassification", ("score",)),
    "tf_sharded": ("h5", "TFGPT2ForSequenceClassification", ("score",)),
    "tf_safetensors": ("safetensors", LM, ()),
    "tf_old_lm": ("h5", LM, ()),
    "tf_old_base": ("h5", BASE, ()),
    "tf_old_sharded": ("h5", LM, ()),
    "flax": ("flax", LM, ()),
    "flax_sharded": ("flax", LM, ()),
    "flax_chunked": ("flax", LM, ()),
    "flax_safetensors": ("safetensors", LM, ()),
    "tf1": ("tf1", LM, ()),
    "keras_hub": ("keras_hub", LM, ()),
    "keras_nlp_old": ("keras_hub", LM, ()),
}
DTYPES = {"torch_float16": "float16", "torch_bfloat16": "bfloat16", "flax_chunked": "bfloat16"}


def test_all_cases_are_here(golden):
    assert {path.name for path in golden.iterdir()} == CASES.keys()


@pytest.mark.parametrize("case", CASES)
def test_tensors(case, golden, model, weights):
    kind, _, heads = CASES[case]
    reader = open_checkpoint(find_in(golden / case))
    assert reader.format == kind
    tied = with_prefix("lm_head.weight")
    keys = {with_prefix(key): key for key in reader.keys() if not is_buffer(key)}
    assert keys.keys() - {tied} >= model.shapes().keys()
    assert {key.split(".")[0] for key in keys} - {"transformer", "lm_head"} == set(heads) - {
        "lm_head"
    }
    for name, key in keys.items():
        if name == tied and "lm_head" not in heads:
            name = "transformer.wte.weight"
        array = reader.read(key)
        assert array.shape == reader.shape(key) == weights[name].shape, key
        assert array.dtype == reader.dtype(key), key
        assert array.dtype.name == DTYPES.get(case, "float32"), key
        assert array.flags.c_contiguous and array.flags.writeable, key
        np.testing.assert_array_equal(array, weights[name].astype(array.dtype), err_msg=key)


@pytest.mark.parametrize("case", CASES)
def test_logits(case, golden, model):
    built = load_model(getattr(tfgpt2, CASES[case][1]), golden / case)
    path = golden / case / "logits.npy"
    if case == "flax_chunked":  # bfloat16, rounded the same way
        path = golden / "torch_bfloat16" / "logits.npy"
    elif not path.exists():  # OpenAI's code needs TensorFlow 1; the weights are the same
        path = golden / "torch_zip" / "logits.npy"
    np.testing.assert_allclose(first_output(built, model.IDS), np.load(path), atol=5e-6, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_configuration(case, golden, model):
    config = load_config(find_in(golden / case))
    for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "eos_token_id"):
        assert getattr(config, name) == model.CONFIG[name], name
    assert config.inner_size == 4 * config.n_embd


def test_end_of_text_comes_from_the_vocabulary(golden, tmp_path):
    import json
    import shutil

    for case, name in (("tf1", "encoder.json"), ("keras_hub", "assets/tokenizer/vocabulary.json")):
        folder = tmp_path / case
        shutil.copytree(golden / case, folder)
        (folder / name).write_text(json.dumps({"<|endoftext|>": 3, "a": 0}))
        config = load_config(find_in(folder))
        assert (config.bos_token_id, config.eos_token_id) == (3, 3)


def test_buffers_of_old_versions_are_read_too(golden, model):
    reader = open_checkpoint(find_in(golden / "torch_base"))
    size = model.CONFIG["n_positions"]
    mask = reader.read("h.0.attn.bias")
    assert mask.dtype == bool and (mask[0, 0] == np.tri(size, dtype=bool)).all()
    assert reader.read("h.0.attn.masked_bias") == -1e4
