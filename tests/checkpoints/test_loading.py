"""`from_pretrained`: unusual but valid files, options, and errors."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support import model_cases as cases
from tests.support.checkpoint_loading import IDS, SMALL_SHARDS, load_language_model, logits_of
from tfgpt2 import GPT2Config, TFGPT2LMHeadModel, TFGPT2Model


@pytest.fixture
def expected(checkpoint):
    return logits_of(load_language_model(checkpoint(name="expected")))


def bare(weights):
    return {key.removeprefix("transformer."): value for key, value in weights.items()}


def old_buffers(weights):
    return weights | {
        f"transformer.h.{i}.attn.{name}": value
        for i in range(2)
        for name, value in (
            ("bias", np.tril(np.ones((1, 1, 24, 24), np.uint8))),
            ("masked_bias", np.float32(-1e4).reshape(1)),
        )
    }


def second_table(weights):
    return weights | {"lm_head.weight": weights["transformer.wte.weight"].copy()}


def foreign_head(weights):
    return weights | {"score.weight": np.ones((2, 16), "f4")}


@pytest.mark.parametrize("change", [bare, old_buffers, second_table, foreign_head])
def test_unusual_but_valid_keys(change, checkpoint, expected):
    np.testing.assert_array_equal(logits_of(load_language_model(checkpoint(change))), expected)
    np.testing.assert_array_equal(
        TFGPT2Model.from_pretrained(checkpoint(change))(IDS)[0],
        TFGPT2Model.from_pretrained(checkpoint())(IDS)[0],
    )


@pytest.mark.parametrize(
    "dtype, limit", [("float16", 0.02), (ml_dtypes.bfloat16, 0.2), ("float64", 1e-6)]
)
def test_other_precisions(dtype, limit, checkpoint, expected):
    def cast(weights):
        return {key: value.astype(dtype) for key, value in weights.items()}

    model = load_language_model(checkpoint(cast))
    assert model.weights[0].dtype == "float32"
    assert np.abs(logits_of(model) - expected).max() < limit
    assert load_language_model(checkpoint(cast), dtype="bfloat16").weights[0].dtype == "bfloat16"


def test_configuration_can_be_overridden(checkpoint):
    folder = checkpoint()
    assert load_language_model(folder, attn_pdrop=0.7).config.attn_pdrop == 0.7
    config = GPT2Config.from_pretrained(folder)
    assert load_language_model(folder, config=config, use_cache=False).config.use_cache is False
    assert config.use_cache is True
    with pytest.raises(TypeError, match="no field 'atn_pdrop'.*Did you mean 'attn_pdrop'"):
        load_language_model(folder, atn_pdrop=0.1)
    with pytest.raises(TypeError, match="made from a GPT2Config"):
        load_language_model(folder, config={"n_layer": 2})


def test_names_of_directories(checkpoint, monkeypatch, expected):
    folder = checkpoint()
    nested = folder.parent / "repository" / "inner folder"
    nested.parent.mkdir()
    folder.rename(nested)
    monkeypatch.chdir(nested.parent.parent)
    for name in (nested, str(nested), "repository/inner folder", "./repository/inner folder/"):
        np.testing.assert_array_equal(logits_of(load_language_model(name)), expected)
    np.testing.assert_array_equal(
        logits_of(load_language_model("repository", subfolder="inner folder")), expected
    )


def test_loaded_weights_are_not_initialised(checkpoint, monkeypatch):
    import keras

    def forbidden(*args, **kwargs):
        raise AssertionError("an initializer ran")

    for name in ("RandomNormal", "Ones", "Zeros", "GlorotUniform"):
        monkeypatch.setattr(getattr(keras.initializers, name), "__call__", forbidden)
    folder = checkpoint(tie_word_embeddings=False, add_cross_attention=True)
    model = load_language_model(folder)
    stored = load_file(folder / "model.safetensors")
    assert len(stored) == len(model.weights)
    with pytest.raises(AssertionError, match="an initializer ran"):
        TFGPT2LMHeadModel(model.config)


# Errors -----------------------------------------------------------------------------------------


def test_all_problems_are_reported_at_once(checkpoint):
    def change(weights):
        del weights["transformer.h.0.ln_1.bias"], weights["transformer.h.1.mlp.c_fc.weight"]
        weights["transformer.h.2.ln_1.bias"] = np.zeros(16, "f4")
        weights["h.0.new.weight"] = np.zeros(2, "f4")
        weights["transformer.wpe.weight"] = np.zeros((31, 16), "f4")
        weights["transformer.ln_f.bias"] = np.zeros(16, "i4")
        return weights

    with pytest.raises(ValueError) as caught:
        load_language_model(checkpoint(change))
    message = str(caught.value)
    assert "missing (2): transformer.h.0.ln_1.bias, transformer.h.1.mlp.c_fc.weight;" in message
    assert "unexpected (2): h.0.new.weight, transformer.h.2.ln_1.bias;" in message
    assert (
        "of another shape or type (2): transformer.wpe.weight is [31, 16] in the file, [24, 16]"
        in message
    )
    assert "transformer.ln_f.bias holds int32 in the file" in message
    assert "Received: checkpoint='" in message and message.endswith("and that the class fits.")


def test_long_lists_are_cut(checkpoint):
    def more_blocks(weights):
        blocks = {k: v for k, v in weights.items() if k.startswith("transformer.h.1.")}
        copies = {k.replace("h.1.", f"h.{i}."): v for i in range(2, 9) for k, v in blocks.items()}
        return weights | copies | {f"transformer.{'x' * 10**6}.weight": np.zeros(1, "f4")}

    with pytest.raises(ValueError, match=r"unexpected \(85\): .*, \.\.\.\. Received") as caught:
        load_language_model(checkpoint(more_blocks))
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"n_layer": 9_999}, "`n_layer` is 9999 in the configuration and 2 in the weights"),
        ({"vocab_size": 2**31 - 1}, "`vocab_size` is 2147483647 in the .* and 23 in the weights"),
        ({"n_positions": 2**31 - 1}, "`n_positions` is 2147483647 in the .* 24 in the weights"),
        # As many heads as that would be listed for every block.
        ({"n_embd": 2**30, "n_head": 2**30}, "`n_embd` is 1073741824 in the .* 16 in the weights"),
        ({"n_layer": 10**12}, "`n_layer` in a GPT2Config must be a positive integer of at most"),
        ({"num_labels": 10**12}, "`num_labels` in a GPT2Config must be an integer from 1 to"),
    ],
)
def test_sizes_are_compared_before_anything_is_built(sizes, message, checkpoint, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a model was built")

    folder = checkpoint()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | sizes))
    monkeypatch.setattr(TFGPT2LMHeadModel, "__init__", forbidden)
    with pytest.raises(ValueError, match=message) as caught:
        load_language_model(folder)
    assert str(folder) in str(caught.value)


def test_a_model_larger_than_the_memory_is_refused():
    with pytest.raises(ValueError, match="(?s)weights, .* GB, and this machine has .*vocab_size=2"):
        TFGPT2LMHeadModel(GPT2Config(vocab_size=2**31 - 1, n_embd=2**14, n_layer=1, n_head=1))


# Files of other tools ---------------------------------------------------------------------------


def test_a_value_head_is_named_in_one_warning(checkpoint, expected):
    def value_head(weights):  # as trl's AutoModelForCausalLMWithValueHead saves it
        head = {"weight": np.zeros((1, 16), "f4"), "bias": np.zeros(1, "f4")}
        return weights | {f"v_head.summary.{name}": value for name, value in head.items()}

    with pytest.warns(UserWarning, match="v_head") as warned:
        model = load_language_model(checkpoint(value_head))
    assert len(warned) == 1
    message = str(warned[0].message)
    assert "v_head.summary.bias, v_head.summary.weight (trl's value head)" in message
    np.testing.assert_array_equal(logits_of(model), expected)


def linear_layout(weights):
    """The matrices `[out, in]`, as nanoGPT and minGPT save them."""
    return {
        key: np.ascontiguousarray(value.T) if ".c_" in key and key.endswith(".weight") else value
        for key, value in weights.items()
    }


def test_the_layout_of_nanogpt(checkpoint, expected):
    found = logits_of(load_language_model(checkpoint(linear_layout)))
    np.testing.assert_array_equal(found, expected)


def test_a_key_with_and_without_prefix(checkpoint):
    def change(weights):
        return weights | {"ln_f.bias": np.zeros(16, "f4")}

    with pytest.raises(ValueError, match=r"stored twice \(1\): .*ln_f.bias"):
        load_language_model(checkpoint(change))


def test_an_untied_model_needs_its_head(checkpoint):
    def change(weights):
        del weights["lm_head.weight"]
        return weights

    with pytest.raises(ValueError, match=r"missing \(1\): lm_head.weight"):
        load_language_model(checkpoint(change, tie_word_embeddings=False))


def test_a_huge_configuration_allocates_no_memory(checkpoint):
    """The configuration describes 10 TB of weights; the error comes before any allocation."""
    folder = checkpoint()
    config = json.loads((folder / "config.json").read_text())
    vast = {"vocab_size": 2**31 - 1, "n_embd": 2**10, "n_positions": 2**30}
    (folder / "config.json").write_text(json.dumps(config | vast))
    with pytest.raises(ValueError, match="`vocab_size` is 2147483647 in the configuration and 23"):
        load_language_model(folder)


@pytest.mark.parametrize("size", [0, 4, 100, 5000, -1])
def test_truncated(size, checkpoint):
    folder = checkpoint()
    file = folder / "model.safetensors"
    os.truncate(file, size if size >= 0 else file.stat().st_size - 1)
    with pytest.raises(ValueError, match="not a readable .*checkpoint.*Download or save it again"):
        load_language_model(folder)


def test_missing_shard(checkpoint, tmp_path):
    load_language_model(checkpoint()).save_pretrained(tmp_path / "s", max_shard_size=SMALL_SHARDS)
    shard = sorted((tmp_path / "s").glob("model-00002-*"))[0]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"shard='{shard.name}'"):
        load_language_model(tmp_path / "s")


def test_a_tensor_that_its_shard_lacks(checkpoint, tmp_path):
    load_language_model(checkpoint()).save_pretrained(tmp_path / "s", max_shard_size=SMALL_SHARDS)
    shard = sorted((tmp_path / "s").glob("model-00001-*"))[0]
    save_file({"transformer.wte.weight": np.zeros((23, 16), "f4")}, shard)
    with pytest.raises(ValueError, match="missing"):
        load_language_model(tmp_path / "s")


def test_a_single_file(checkpoint):
    folder = checkpoint()
    wanted = logits_of(load_language_model(folder))
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    (folder / "model.safetensors").write_bytes(b"another model's")
    found = logits_of(load_language_model(folder / "mine.safetensors"))
    np.testing.assert_array_equal(found, wanted)


def test_no_files(tmp_path, checkpoint):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no file 'config.json'.*Point to a directory"):
        load_language_model(tmp_path / "empty")
    GPT2Config(**cases.BASE).save_pretrained(tmp_path / "no weights")
    with pytest.raises(FileNotFoundError, match="has no weights in a known.*name='.*Name a dir"):
        load_language_model(tmp_path / "no weights")
    with pytest.raises(
        ValueError, match="no weights in a known format.*config.json'.*Name the dir"
    ):
        load_language_model(checkpoint() / "config.json")
    with pytest.raises(FileNotFoundError, match="No local directory, bundled model or hub reposit"):
        load_language_model(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="has no file 'config.json'.*name='.*/inner'"):
        load_language_model(checkpoint(), subfolder="inner")


@pytest.mark.parametrize("name", ["", None, 3, ["gpt2"]])
def test_invalid_names(name):
    with pytest.raises(ValueError, match="named by a local directory, a bundled name or a hub nam"):
        load_language_model(name)


# Keywords of transformers ------------------------------------------------------------------------


def test_mismatched_sizes_are_ignored_on_request(checkpoint):
    from tfgpt2 import TFGPT2ForSequenceClassification

    def head(rows):
        return lambda weights: weights | {"score.weight": np.ones((rows, 16), "f4")}

    folder = checkpoint(head(3))
    with pytest.raises(ValueError, match="score.weight is .3, 16. in the file, .5, 16. in the mo"):
        TFGPT2ForSequenceClassification.from_pretrained(folder, num_labels=5)
    with pytest.warns(
        UserWarning,
        match=r"score.weight \[3, 16\] -> \[5, 16\].*train TFGPT2ForSequenceClassification bef",
    ):
        model = TFGPT2ForSequenceClassification.from_pretrained(
            folder, num_labels=5, ignore_mismatched_sizes=True
        )
    assert np.ptp(model.score.weight.numpy()) > 0
    body = load_language_model(folder).transformer.wte.weight.numpy()
    np.testing.assert_array_equal(model.transformer.wte.weight.numpy(), body)


def test_keywords_that_change_nothing(checkpoint, expected):
    model = load_language_model(checkpoint(), from_pt=True, low_cpu_mem_usage=True)
    np.testing.assert_array_equal(logits_of(model), expected)


@pytest.mark.long
@pytest.mark.parametrize("jit_compile", [False, True])
def test_special_tokens_that_do_not_exist(checkpoint, jit_compile):
    """Ids of -1 and above the vocabulary, as files of converted models have them."""
    ids = [[1, 2, 3]]
    tokens = load_language_model(checkpoint()).generate(
        ids, max_new_tokens=4, eos_token_id=None, jit_compile=jit_compile
    )
    folder = checkpoint(name="odd", bos_token_id=-1, eos_token_id=[-1, 50256], pad_token_id=-1)
    model = load_language_model(folder)
    assert (model.config.eos_token_id, model.config.pad_token_id) == ([-1, 50256], -1)
    assert model.generation_config.eos_ids == [50256]
    for options in ({}, {"min_new_tokens": 2}, {"num_beams": 2}):
        found = model.generate(ids, max_new_tokens=4, jit_compile=jit_compile, **options)
        if "num_beams" not in options:
            np.testing.assert_array_equal(found, tokens)
    (folder / "generation_config.json").write_text('{"eos_token_id": -1, "pad_token_id": -1}')
    assert load_language_model(folder).generation_config.eos_ids == [50256]
