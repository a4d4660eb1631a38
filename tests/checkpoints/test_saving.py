"""`save_pretrained`: round trips, stored types, and saves over earlier saves."""

import errno
import json
import os
import stat

import ml_dtypes
import numpy as np
import pytest

from tests.support.checkpoint_loading import SMALL_SHARDS, load_language_model, logits_of
from tfgpt2.checkpoints.readers.safetensors import SafetensorsReader
from tfgpt2.checkpoints.writers import safetensors

KINDS = [{}, {"tie_word_embeddings": False}, {"add_cross_attention": True}, {"n_inner": 10}]


@pytest.mark.parametrize("fields", KINDS, ids=str)
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, SMALL_SHARDS])
def test_round_trip(fields, shard_bytes, checkpoint, tmp_path):
    model = load_language_model(checkpoint(**fields))
    model.save_pretrained(tmp_path / "new" / "place", max_shard_size=shard_bytes)
    again = load_language_model(tmp_path / "new" / "place")
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
    model = load_language_model(checkpoint())
    model.save_pretrained(tmp_path / "saved", dtype=dtype)
    reader = SafetensorsReader([tmp_path / "saved" / "model.safetensors"])
    assert {reader.dtype(key).name for key in reader.keys()} == {dtype}
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == dtype
    for old, new in zip(
        model.weights, load_language_model(tmp_path / "saved").weights, strict=True
    ):
        rounded = np.asarray(old).astype(reader.dtype("transformer.ln_f.bias"))
        np.testing.assert_array_equal(rounded.astype("f4"), new)


def test_half_precision_models_are_stored_as_they_are(checkpoint, tmp_path):
    model = load_language_model(checkpoint(), dtype="bfloat16")
    model.save_pretrained(tmp_path / "saved")
    reader = SafetensorsReader([tmp_path / "saved" / "model.safetensors"])
    assert reader.dtype("transformer.ln_f.bias") == ml_dtypes.bfloat16


def test_bad_arguments_of_save(checkpoint, tmp_path):
    model = load_language_model(checkpoint())
    with pytest.raises(ValueError, match="floating-point type.*Received: dtype='int8'. Choose"):
        model.save_pretrained(tmp_path / "x", dtype="int8")
    with pytest.raises(ValueError, match="Received: dtype='half'"):
        model.save_pretrained(tmp_path / "x", dtype="half")
    with pytest.raises(ValueError, match="max_shard_size.*positive.*=0"):
        model.save_pretrained(tmp_path / "x", max_shard_size=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(
        NotADirectoryError, match="saved into a directory. Received: save_directory="
    ):
        model.save_pretrained(tmp_path / "file")
    assert not (tmp_path / "x").exists()


# Saves over saves -------------------------------------------------------------------------------


def test_a_new_save_replaces_the_old_one(checkpoint, tmp_path):
    first, second, place = (
        load_language_model(checkpoint()),
        load_language_model(checkpoint()),
        tmp_path / "place",
    )
    second.transformer.wte.weight.assign(second.transformer.wte.weight * 2)
    place.mkdir()
    for name in ("model_notes.safetensors", "notes.txt", "model-best.safetensors"):
        (place / name).write_text("mine")
    for model, limit in ((first, SMALL_SHARDS), (second, 10**9), (first, 8000), (second, 4000)):
        model.save_pretrained(place, max_shard_size=limit)
        np.testing.assert_array_equal(logits_of(load_language_model(place)), logits_of(model))
    assert (place / "model_notes.safetensors").read_text() == "mine"
    assert (place / "model-best.safetensors").read_text() == "mine"
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("fail_at", [0, 1, 2])
@pytest.mark.parametrize("limits", [(10**9, SMALL_SHARDS), (SMALL_SHARDS, SMALL_SHARDS)])
def test_a_failed_save_keeps_the_old_one(fail_at, limits, checkpoint, tmp_path, monkeypatch):
    first, second, place = (
        load_language_model(checkpoint()),
        load_language_model(checkpoint()),
        tmp_path / "place",
    )
    first.save_pretrained(place, max_shard_size=limits[0])
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    second.transformer.wte.weight.assign(second.transformer.wte.weight * 2)
    real, calls = safetensors.write_file, []

    def write_file(tensors, path):
        calls.append(path)
        if len(calls) > fail_at:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(safetensors, "write_file", write_file)
    with pytest.raises(OSError, match="No space left"):
        second.save_pretrained(place, max_shard_size=limits[1])
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    np.testing.assert_array_equal(logits_of(load_language_model(place)), logits_of(first))


def test_permissions_follow_the_umask(checkpoint, tmp_path):
    before = os.umask(0o027)
    try:
        load_language_model(checkpoint()).save_pretrained(
            tmp_path / "saved", max_shard_size=SMALL_SHARDS
        )
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "saved").iterdir()}
    assert modes == {0o640}
