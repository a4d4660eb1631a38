"""Keywords of transformers 4.57's `from_pretrained` and `save_pretrained` do what they did."""

import json

import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2 import GenerationConfig, GPT2Config, TFGPT2LMHeadModel

TINY = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 20, "n_positions": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, in safetensors and in HDF5 with other weights."""
    folder = tmp_path_factory.mktemp("model")
    TFGPT2LMHeadModel(GPT2Config(**TINY)).save_pretrained(save_directory=folder)
    other = TFGPT2LMHeadModel(GPT2Config(**TINY))
    other.save_pretrained(folder / "h5", safe_serialization=False)
    (folder / "h5" / "tf_model.h5").rename(folder / "tf_model.h5")
    return folder


def table(model):
    return model.transformer.wte.weight.numpy().tolist()


def test_names_of_arguments(folder):
    model = TFGPT2LMHeadModel.from_pretrained(
        pretrained_model_name_or_path=folder, trust_remote_code=False, low_cpu_mem_usage=True
    )
    assert model.name_or_path == str(folder)
    config = GPT2Config.from_pretrained(pretrained_model_name_or_path=folder, use_cache=False)
    assert config.n_embd == 8 and not config.use_cache
    assert GPT2Config.from_json_file(json_file=folder / "config.json").n_embd == 8
    assert GPT2Config.from_pretrained(folder / "config.json").n_embd == 8
    assert GPT2Config.from_dict(config_dict={"n_layer": 3}).n_layer == 3
    config, unused = GPT2Config.from_pretrained(folder, n_layer=4, foo=1, return_unused_kwargs=True)
    assert config.n_layer == 4 and unused == {"foo": 1}
    GenerationConfig(top_k=3).save_pretrained(folder / "g", "other.json", push_to_hub=False)
    found, unused = GenerationConfig.from_pretrained(
        folder / "g", config_file_name="other.json", foo=1, return_unused_kwargs=True
    )
    assert found.top_k == 3 and unused == {"foo": 1}


def test_use_safetensors(folder, tmp_path):
    stored = table(TFGPT2LMHeadModel.from_pretrained(folder))
    assert table(TFGPT2LMHeadModel.from_pretrained(folder, use_safetensors=True)) == stored
    assert table(TFGPT2LMHeadModel.from_pretrained(folder, use_safetensors=False)) != stored
    model = TFGPT2LMHeadModel(GPT2Config(**TINY))
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / "tf_model.h5").exists() and not (tmp_path / "model.safetensors").exists()
    assert table(TFGPT2LMHeadModel.from_pretrained(tmp_path)) == table(model)
    with pytest.raises(FileNotFoundError, match="no safetensors file"):
        TFGPT2LMHeadModel.from_pretrained(tmp_path, use_safetensors=True)


def test_a_named_configuration(folder, tmp_path):
    GPT2Config(**TINY, layer_norm_epsilon=0.5).save_pretrained(tmp_path)
    for name in (tmp_path, str(tmp_path / "config.json")):
        model = TFGPT2LMHeadModel.from_pretrained(folder, config=name, use_cache=False)
        assert model.config.layer_norm_epsilon == 0.5 and not model.config.use_cache


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_report_on_loading(folder):
    model, info = tfgpt2.TFGPT2ForSequenceClassification.from_pretrained(
        folder, num_labels=3, output_loading_info=True, ignore_mismatched_sizes=True, vocab_size=21
    )
    assert info["missing_keys"] == ["score.weight"] and info["unexpected_keys"] == []
    assert info["mismatched_keys"] == [("transformer.wte.weight", (20, 8), (21, 8))]
    assert model.config.num_labels == 3


@pytest.mark.parametrize("size", ["1KB", "1kib", 1000])
def test_sizes_of_shards(size, tmp_path):
    TFGPT2LMHeadModel(GPT2Config(**TINY)).save_pretrained(tmp_path, max_shard_size=size)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    with pytest.raises(ValueError, match="`max_shard_size` must be"):
        TFGPT2LMHeadModel(GPT2Config(**TINY)).save_pretrained(tmp_path, max_shard_size="1 shoe")


def test_a_saved_model_beside_the_weights(tmp_path):
    model = TFGPT2LMHeadModel(GPT2Config(**TINY))
    model.save_pretrained(tmp_path, saved_model=True, version=2)
    loaded = tf.saved_model.load(str(tmp_path / "saved_model" / "2"))
    ids = tf.constant([[1, 2, 3]])
    out = loaded.serve({"input_ids": ids, "attention_mask": tf.ones_like(ids)})
    tf.debugging.assert_near(tf.nest.flatten(out)[0], model(ids).logits, atol=1e-5)


def test_what_is_not_done_says_so(folder, tmp_path):
    model = TFGPT2LMHeadModel(GPT2Config(**TINY))
    for one in (model, model.config, model.generation_config):
        with pytest.raises(ValueError, match="upload_folder"):
            one.save_pretrained(tmp_path, push_to_hub=True)
    values = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "x.y"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    TFGPT2LMHeadModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no code is loaded"):
        TFGPT2LMHeadModel.from_pretrained(tmp_path, trust_remote_code=True)


def test_configurations_change_and_are_written(tmp_path):
    config = GPT2Config(**TINY)
    config.update({"n_layer": 3, "hidden_size": 4})
    assert (config.n_layer, config.n_embd) == (3, 4)
    with pytest.raises(ValueError, match="n_head"):
        config.update({"n_layer": 2, "n_head": 3})
    assert config.n_layer == 3  # nothing was changed
    assert config.to_diff_dict() == {"n_layer": 3, "n_embd": 4, "n_head": 2, "vocab_size": 20,
                                     "n_positions": 16, "model_type": "gpt2"}  # fmt: skip
    config.to_json_file(tmp_path / "c.json", use_diff=True)
    assert GPT2Config.from_json_file(tmp_path / "c.json") == config
    generation = GenerationConfig()
    assert generation.update(max_new_tokens=5, foo="bar") == {"foo": "bar"}
    assert generation.to_diff_dict() == {"max_new_tokens": 5}
    with pytest.raises(ValueError, match="num_return_sequences"):
        generation.update(max_new_tokens=6, num_return_sequences=2)
    assert generation.max_new_tokens == 5
    generation.to_json_file(tmp_path / "g.json")
    assert GenerationConfig.from_json_file(tmp_path / "g.json") == generation
