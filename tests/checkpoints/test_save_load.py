"""from_pretrained and save_pretrained: round trips, strange but legal files, refusals."""

import errno
import json
import os
import stat

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support import model_cases as cases
from tfgpt2 import GPT2Config, TFGPT2LMHeadModel, TFGPT2Model
from tfgpt2.checkpoints.readers import safetensors

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
SMALL_SHARDS = 4000  # bytes


def logits(model):
    return model(IDS).logits.numpy()


def load(folder, **options):
    return TFGPT2LMHeadModel.from_pretrained(folder, **options)


@pytest.fixture
def expected(checkpoint):
    return logits(load(checkpoint(name="expected")))


# What must load ---------------------------------------------------------------------------------


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
def test_strange_but_legal(change, checkpoint, expected):
    np.testing.assert_array_equal(logits(load(checkpoint(change))), expected)
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

    model = load(checkpoint(cast))
    assert model.weights[0].dtype == "float32"
    assert np.abs(logits(model) - expected).max() < limit
    assert load(checkpoint(cast), dtype="bfloat16").weights[0].dtype == "bfloat16"


def test_configuration_can_be_overridden(checkpoint):
    folder = checkpoint()
    assert load(folder, attn_pdrop=0.7).config.attn_pdrop == 0.7
    config = GPT2Config.from_pretrained(folder)
    assert load(folder, config=config, use_cache=False).config.use_cache is False
    assert config.use_cache is True
    with pytest.raises(TypeError, match="no field 'atn_pdrop'.*Did you mean 'attn_pdrop'"):
        load(folder, atn_pdrop=0.1)
    with pytest.raises(TypeError, match="made from a GPT2Config"):
        load(folder, config={"n_layer": 2})


def test_names_of_directories(checkpoint, monkeypatch, expected):
    folder = checkpoint()
    nested = folder.parent / "repository" / "inner folder"
    nested.parent.mkdir()
    folder.rename(nested)
    monkeypatch.chdir(nested.parent.parent)
    for name in (nested, str(nested), "repository/inner folder", "./repository/inner folder/"):
        np.testing.assert_array_equal(logits(load(name)), expected)
    np.testing.assert_array_equal(logits(load("repository", subfolder="inner folder")), expected)


def test_loaded_weights_are_not_initialised(checkpoint, monkeypatch):
    import keras

    def forbidden(*args, **kwargs):
        raise AssertionError("an initializer ran")

    for name in ("RandomNormal", "Ones", "Zeros", "GlorotUniform"):
        monkeypatch.setattr(getattr(keras.initializers, name), "__call__", forbidden)
    folder = checkpoint(tie_word_embeddings=False, add_cross_attention=True)
    model = load(folder)
    stored = load_file(folder / "model.safetensors")
    assert len(stored) == len(model.weights)
    with pytest.raises(AssertionError, match="an initializer ran"):
        TFGPT2LMHeadModel(model.config)


# Round trips ------------------------------------------------------------------------------------

KINDS = [{}, {"tie_word_embeddings": False}, {"add_cross_attention": True}, {"n_inner": 10}]


@pytest.mark.parametrize("fields", KINDS, ids=str)
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, SMALL_SHARDS])
def test_round_trip(fields, shard_bytes, checkpoint, tmp_path):
    model = load(checkpoint(**fields))
    model.save_pretrained(tmp_path / "new" / "place", max_shard_bytes=shard_bytes)
    again = load(tmp_path / "new" / "place")
    assert again.config.to_dict() | {"architectures": None, "dtype": None} == (
        model.config.to_dict() | {"architectures": None, "dtype": None}
    )
    for old, new in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    shards = list((tmp_path / "new" / "place").glob("*.safetensors"))
    assert (len(shards) > 1) == (shard_bytes == SMALL_SHARDS)
    assert len(shards) == 1 or max(s.stat().st_size for s in shards) < SMALL_SHARDS + 2000


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float32"])
def test_stored_types(dtype, checkpoint, tmp_path):
    model = load(checkpoint())
    model.save_pretrained(tmp_path / "saved", dtype=dtype)
    reader = safetensors.SafetensorsReader([tmp_path / "saved" / "model.safetensors"])
    assert {reader.dtype(key).name for key in reader.keys()} == {dtype}
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == dtype
    for old, new in zip(model.weights, load(tmp_path / "saved").weights, strict=True):
        rounded = np.asarray(old).astype(reader.dtype("transformer.ln_f.bias"))
        np.testing.assert_array_equal(rounded.astype("f4"), new)


def test_half_precision_models_are_stored_as_they_are(checkpoint, tmp_path):
    model = load(checkpoint(), dtype="bfloat16")
    model.save_pretrained(tmp_path / "saved")
    reader = safetensors.SafetensorsReader([tmp_path / "saved" / "model.safetensors"])
    assert reader.dtype("transformer.ln_f.bias") == ml_dtypes.bfloat16


def test_bad_arguments_of_save(checkpoint, tmp_path):
    model = load(checkpoint())
    with pytest.raises(ValueError, match="floating-point type.*Received: dtype='int8'. Choose"):
        model.save_pretrained(tmp_path / "x", dtype="int8")
    with pytest.raises(ValueError, match="Received: dtype='half'"):
        model.save_pretrained(tmp_path / "x", dtype="half")
    with pytest.raises(ValueError, match="max_shard_bytes.*positive.*=0"):
        model.save_pretrained(tmp_path / "x", max_shard_bytes=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="saved into a directory. Received: directory="):
        model.save_pretrained(tmp_path / "file")
    assert not (tmp_path / "x").exists()


# Saves over saves -------------------------------------------------------------------------------


def test_a_new_save_replaces_the_old_one(checkpoint, tmp_path):
    first, second, place = load(checkpoint()), load(checkpoint()), tmp_path / "place"
    second.transformer.wte.weight.assign(second.transformer.wte.weight * 2)
    place.mkdir()
    for name in ("model_notes.safetensors", "notes.txt", "model-best.safetensors"):
        (place / name).write_text("mine")
    for model, limit in ((first, SMALL_SHARDS), (second, 10**9), (first, 8000), (second, 4000)):
        model.save_pretrained(place, max_shard_bytes=limit)
        np.testing.assert_array_equal(logits(load(place)), logits(model))
    assert (place / "model_notes.safetensors").read_text() == "mine"
    assert (place / "model-best.safetensors").read_text() == "mine"
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("fail_at", [0, 1, 2])
@pytest.mark.parametrize("limits", [(10**9, SMALL_SHARDS), (SMALL_SHARDS, SMALL_SHARDS)])
def test_an_interrupted_save_leaves_the_old_one(fail_at, limits, checkpoint, tmp_path, monkeypatch):
    first, second, place = load(checkpoint()), load(checkpoint()), tmp_path / "place"
    first.save_pretrained(place, max_shard_bytes=limits[0])
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    second.transformer.wte.weight.assign(second.transformer.wte.weight * 2)
    real, calls = safetensors.write, []

    def write(tensors, path):
        calls.append(path)
        if len(calls) > fail_at:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(safetensors, "write", write)
    with pytest.raises(OSError, match="No space left"):
        second.save_pretrained(place, max_shard_bytes=limits[1])
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    np.testing.assert_array_equal(logits(load(place)), logits(first))


def test_permissions_follow_the_umask(checkpoint, tmp_path):
    before = os.umask(0o027)
    try:
        load(checkpoint()).save_pretrained(tmp_path / "saved", max_shard_bytes=SMALL_SHARDS)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "saved").iterdir()}
    assert modes == {0o640}


# What must not load -----------------------------------------------------------------------------


def test_all_that_does_not_fit_is_told_at_once(checkpoint):
    def change(weights):
        del weights["transformer.h.0.ln_1.bias"], weights["transformer.h.1.mlp.c_fc.weight"]
        weights["transformer.h.2.ln_1.bias"] = np.zeros(16, "f4")
        weights["classy.weight"] = np.zeros(2, "f4")
        weights["transformer.wpe.weight"] = np.zeros((7, 16), "f4")
        weights["transformer.ln_f.bias"] = np.zeros(16, "i4")
        return weights

    with pytest.raises(ValueError) as caught:
        load(checkpoint(change))
    message = str(caught.value)
    assert "missing (2): transformer.h.0.ln_1.bias, transformer.h.1.mlp.c_fc.weight;" in message
    assert "unexpected (2): transformer.classy.weight, transformer.h.2.ln_1.bias;" in message
    assert (
        "of another shape or type (2): transformer.wpe.weight is [7, 16] in the file, [24, 16]"
        in message
    )  # noqa: E501
    assert "transformer.ln_f.bias holds int32 in the file" in message
    assert "Received: checkpoint='" in message and message.endswith("and that the class fits.")


def test_long_lists_are_cut(checkpoint):
    folder = checkpoint()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 9}))
    with pytest.raises(ValueError, match=r"missing \(84\): .*, \.\.\.\. Received") as caught:
        load(folder)
    assert len(str(caught.value)) < 1500


def test_a_key_with_and_without_prefix(checkpoint):
    def change(weights):
        return weights | {"ln_f.bias": np.zeros(16, "f4")}

    with pytest.raises(ValueError, match=r"stored twice \(1\): .*ln_f.bias"):
        load(checkpoint(change))


def test_an_untied_model_needs_its_head(checkpoint):
    def change(weights):
        del weights["lm_head.weight"]
        return weights

    with pytest.raises(ValueError, match=r"missing \(1\): lm_head.weight"):
        load(checkpoint(change, tie_word_embeddings=False))


def test_a_vast_configuration_takes_no_memory(checkpoint):
    """10 TB of weights are announced; the error comes at once and not from the allocator."""
    folder = checkpoint()
    config = json.loads((folder / "config.json").read_text())
    vast = {"vocab_size": 2**31 - 1, "n_embd": 2**10, "n_positions": 2**30}
    (folder / "config.json").write_text(json.dumps(config | vast))
    with pytest.raises(ValueError, match="wte.weight is .* in the file, .2147483647, 1024. in the"):
        load(folder)


@pytest.mark.parametrize("size", [0, 4, 100, 5000, -1])
def test_truncated(size, checkpoint):
    folder = checkpoint()
    file = folder / "model.safetensors"
    os.truncate(file, size if size >= 0 else file.stat().st_size - 1)
    with pytest.raises(ValueError, match="not a readable .*checkpoint.*Download or save it again"):
        load(folder)


def test_missing_shard(checkpoint, tmp_path):
    load(checkpoint()).save_pretrained(tmp_path / "s", max_shard_bytes=SMALL_SHARDS)
    shard = sorted((tmp_path / "s").glob("model-00002-*"))[0]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"shard='{shard.name}'"):
        load(tmp_path / "s")


def test_a_tensor_that_its_shard_lacks(checkpoint, tmp_path):
    load(checkpoint()).save_pretrained(tmp_path / "s", max_shard_bytes=SMALL_SHARDS)
    shard = sorted((tmp_path / "s").glob("model-00001-*"))[0]
    save_file({"transformer.wte.weight": np.zeros((23, 16), "f4")}, shard)
    with pytest.raises(ValueError, match="missing"):
        load(tmp_path / "s")


def test_no_files(tmp_path, checkpoint):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no file 'config.json'.*Point to a directory"):
        load(tmp_path / "empty")
    GPT2Config(**cases.BASE).save_pretrained(tmp_path / "no weights")
    with pytest.raises(FileNotFoundError, match="has no weights in a known.*name='.*Name a dir"):
        load(tmp_path / "no weights")
    with pytest.raises(NotADirectoryError, match="A model is a directory of files; this is one"):
        load(checkpoint() / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="No local directory, bundled model or hub reposit"):
        load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="has no file 'config.json'.*name='.*/inner'"):
        load(checkpoint(), subfolder="inner")


@pytest.mark.parametrize("name", ["", None, 3, ["gpt2"]])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="named by a local directory, a bundled name or a hub nam"):
        load(name)


# PyTorch transformers ---------------------------------------------------------------------------


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
def test_pytorch_loads_what_we_wrote(fields, shard_bytes, checkpoint, tmp_path, torch):
    model = load(checkpoint(**fields))
    model.save_pretrained(tmp_path / "ours", max_shard_bytes=shard_bytes)
    np.testing.assert_allclose(their_logits(torch, tmp_path / "ours"), logits(model), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, SMALL_SHARDS])
def test_pytorch_loads_half_precision(dtype, shard_bytes, checkpoint, tmp_path, torch):
    load(checkpoint()).save_pretrained(tmp_path / "s", dtype=dtype, max_shard_bytes=shard_bytes)
    np.testing.assert_allclose(
        their_logits(torch, tmp_path / "s", dtype="float32"),
        logits(load(tmp_path / "s")),
        atol=1e-5,
    )


@pytest.mark.parametrize("fields", KINDS, ids=str)
@pytest.mark.parametrize("shard_size", ["5GB", "4KB"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_we_load_what_pytorch_wrote(fields, shard_size, dtype, tmp_path, torch):
    import transformers

    config = cases.config_of(cases.Case(fields))
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config.from_dict(config))
    theirs.to(getattr(torch, dtype)).save_pretrained(tmp_path, max_shard_size=shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shard_size == "4KB"
    np.testing.assert_allclose(
        logits(load(tmp_path)), their_logits(torch, tmp_path, dtype="float32"), atol=1e-5
    )


def test_we_load_a_bare_model_that_pytorch_wrote(tmp_path, torch):
    import transformers

    theirs = transformers.GPT2Model(transformers.GPT2Config(**cases.BASE))
    theirs.save_pretrained(tmp_path)
    assert "wte.weight" in load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(IDS)).last_hidden_state.numpy()
    ours = TFGPT2Model.from_pretrained(tmp_path)
    np.testing.assert_allclose(ours(IDS).last_hidden_state, expected, atol=1e-5)
    assert load(tmp_path)(IDS).logits.shape == (2, 4, 23)


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
