"""`open_checkpoint` and `load_config`: the format they choose, and the errors when none fits."""

import json
import shutil

import numpy as np
import pytest

from tests.support.checkpoint_loading import find_in
from tfgpt2.checkpoints.detection import load_config, open_checkpoint
from tfgpt2.checkpoints.registry import READERS
from tfgpt2.checkpoints.tokenizer_files import find_tokenizer_file, read_vocabulary
from tfgpt2.checkpoints.writers.base import StoredTensor
from tfgpt2.checkpoints.writers.safetensors import write_file


def write(folder, *keys):
    values = np.zeros(2, "f4")
    tensors = [StoredTensor(key, values.dtype, values.shape, lambda: values) for key in keys]
    write_file(tensors, folder / "model.safetensors")


def test_the_order_of_the_formats(golden, tmp_path):
    order = ["safetensors", "torch", "h5", "flax", "tf1", "keras_hub"]
    others = ["nanogpt", "mingpt", "llm_c", "gguf"]
    assert [kind.format for kind in READERS] == order + others
    cases = ["flax_safetensors", "torch_zip", "tf_lm", "flax", "tf1", "keras_hub"]
    for case in cases:
        for path in (golden / case).glob("*"):
            if path.is_file():
                shutil.copyfile(path, tmp_path / path.name)
    file_of = {
        "safetensors": "model.safetensors",
        "torch": "pytorch_model.bin",
        "h5": "tf_model.h5",
        "flax": "flax_model.msgpack",
        "tf1": "checkpoint",
        "keras_hub": "model.weights.h5",
    }
    for kind in order:
        assert open_checkpoint(find_in(tmp_path)).format == kind
        (tmp_path / file_of[kind]).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        open_checkpoint(find_in(tmp_path), "my-model")
    message = str(caught.value)
    assert "name='my-model'" in message
    assert all(name in message for name in file_of.values())
    assert "pytorch_model.bin.index.json" in message and "tf_model.h5.index.json" in message


def test_a_damaged_file_is_not_skipped(golden, tmp_path):
    shutil.copytree(golden / "torch_zip", tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="model.safetensors"):
        open_checkpoint(find_in(tmp_path))


@pytest.mark.parametrize(
    ("keys", "other"),
    [
        (["bert.embeddings.word_embeddings.weight", "cls.predictions.bias"], "BERT"),
        (["roberta.encoder.layer.0.output.dense.weight"], "RoBERTa"),
        (["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"], "Llama"),
        (["transformer.wte.weight", "transformer.h.0.attn.attention.k_proj.weight"], "GPT-Neo"),
        (["transformer.wte.weight", "transformer.h.0.attn.q_proj.weight"], "GPT-J"),
        (["gpt_neox.layers.0.attention.dense.weight"], "GPT-NeoX"),
        (["transformer.h.0.self_attention.dense.weight"], "BLOOM or Falcon"),
        (["encoder.block.0.layer.0.SelfAttention.q.weight"], "T5"),
        (["h.0.attn.c_attn.weight", "tokens_embed.weight"], ""),  # GPT-1
        (["something.else"], ""),
    ],
)
def test_other_architectures(tmp_path, keys, other):
    write(tmp_path, *keys)
    with pytest.raises(ValueError, match="holds another architecture") as caught:
        open_checkpoint(find_in(tmp_path), "a-model")
    message = str(caught.value)
    assert f"path='{tmp_path / 'model.safetensors'}'" in message
    assert "first_keys=[" in message and sorted(keys)[0] in message
    assert (f"looks like {other}" in message) if other else ("looks like" not in message)


def test_keys_with_the_prefix_of_a_wrapper(tmp_path):
    write(tmp_path, "gpt.transformer.wte.weight", "gpt.transformer.h.0.attn.c_attn.weight")
    with pytest.raises(ValueError, match="Remove 'gpt.' from the keys"):
        open_checkpoint(find_in(tmp_path))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.",
                                    "base_model.model.", "pretrained_model."])  # fmt: skip
def test_prefixes_of_known_wrappers_are_removed(prefix, tmp_path):
    keys = ["transformer.h.0.attn.c_attn.weight", "transformer.wte.weight", "v_head.bias"]
    write(tmp_path, *(prefix + key for key in keys))
    with pytest.warns(UserWarning, match=f"'my-model' begin with '{prefix}'") as warned:
        reader = open_checkpoint(find_in(tmp_path), "my-model")
    zeros = "transformer.h.0.attn.c_attn.bias"  # none of the projections has a bias
    assert sorted(reader.keys()) == sorted([*keys, zeros]) and len(warned) == 1


# Configuration ----------------------------------------------------------------------------------


def test_no_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match="'config.json'.*'hparams.json'.*'a-model'"):
        load_config(find_in(tmp_path), "a-model")


def test_overrides(golden):
    for case in ("torch_zip", "tf1", "keras_hub"):
        assert load_config(find_in(golden / case), attn_pdrop=0.25).attn_pdrop == 0.25
        with pytest.raises(TypeError, match="no field 'attn_drop'"):
            load_config(find_in(golden / case), attn_drop=0.25)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"model_type": "bert"}, "another architecture"),
        ({"class_name": "BertBackbone", "config": {}}, "another architecture"),
        ({"class_name": "GPT2Backbone", "config": {"num_layers": 2}}, "lacks one of"),
        ({"class_name": "GPT2Backbone", "config": 3}, "lacks one of"),
    ],
)
def test_other_configurations(tmp_path, values, part):
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=part):
        load_config(find_in(tmp_path))


# Tokenizer files -------------------------------------------------------------------


def test_tokenizer_files_under_other_names(golden, model):
    for case in ("tf1", "keras_hub"):
        find = find_in(golden / case)
        vocabulary, merges = read_vocabulary(find, model.CONFIG["vocab_size"])
        assert vocabulary == model.VOCABULARY and merges == model.MERGES
    assert find("tokenizer.json") is not None  # Keras' own, which is something else
    assert find_tokenizer_file(find, "tokenizer.json") is None


def test_tokenizer_json(tmp_path):
    values = {
        "model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        "added_tokens": [{"content": "<x>", "id": 3}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    vocabulary, merges = read_vocabulary(find_in(tmp_path), 4)
    assert vocabulary == {"a": 0, "b": 1, "ab": 2, "<x>": 3} and merges == ["a b"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"a": 0, "b": 29}', "ids up to 29, but the model has 29"),
        ("{}", "not a vocabulary"),
        ("[1]", "expected a JSON object"),
        ('{"a": "b"}', "not an integer of at least 0"),
        ("{", "not valid JSON"),
    ],
)
def test_vocabularies_that_do_not_fit(golden, tmp_path, text, part):
    shutil.copytree(golden / "tf1", tmp_path, dirs_exist_ok=True)
    (tmp_path / "encoder.json").write_text(text)
    with pytest.raises(ValueError, match=f"encoder.json is not a readable checkpoint.*{part}"):
        read_vocabulary(find_in(tmp_path), 29)
