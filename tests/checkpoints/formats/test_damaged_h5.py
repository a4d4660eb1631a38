"""`tf_model.h5` and KerasHub files that are damaged or refer to other files: a clear error."""

import json
import shutil
import tracemalloc

import h5py
import numpy as np
import pytest

import tfgpt2
from tests.support.checkpoint_loading import find_in, load_model
from tfgpt2.checkpoints.readers.h5 import H5Reader, key_from_name
from tfgpt2.checkpoints.readers.keras_hub import KerasHubReader
from tfgpt2.checkpoints.writers.base import StoredTensor
from tfgpt2.checkpoints.writers.h5 import write_file

LAYER = "transformer"
NAME = "tfgpt2/transformer/h_._0/ln_1/gamma:0"
PLACE = f"{LAYER}/{NAME}"
KEY = "transformer.h.0.ln_1.weight"


def make(folder, change=None):
    path = folder / "tf_model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [LAYER.encode()]
        file.create_group(LAYER).attrs["weight_names"] = [NAME.encode()]
        file[PLACE] = np.arange(4, dtype=np.float32)
        if change is not None:
            change(file)
    return path


def refuse(folder, *parts, reader=H5Reader, file="tf_model.h5"):
    with pytest.raises(ValueError) as caught:
        opened = reader.from_files(find_in(folder))
        for key in opened.keys():
            opened.read(key)
    message = str(caught.value)
    assert message.startswith(f"{file} is not a readable checkpoint: "), message
    assert f"path='{folder / file}'" in message
    for part in parts:
        assert part in message, message


def test_a_sound_file_is_read(tmp_path):
    make(tmp_path)
    reader = H5Reader.from_files(find_in(tmp_path))
    assert reader.keys() == [KEY]
    np.testing.assert_array_equal(reader.read(KEY), range(4))


def replace(**options):
    def change(file):
        del file[PLACE]
        file.create_dataset(PLACE, **options)

    return change


def linked(link):
    def change(file):
        del file[PLACE]
        file[PLACE] = link

    return change


def without(*places):
    def change(file):
        for place in places:
            del file[place]

    return change


def virtual(file):
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", shape=(4,))
    del file[PLACE]
    file.create_virtual_dataset(PLACE, layout)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (without(PLACE), ["no weights"]),
        (without(LAYER), ["no weights"]),
        (linked(h5py.ExternalLink("/etc/other.h5", "x")), ["no weights"]),
        (linked(h5py.SoftLink("/transformer")), ["no weights"]),
        (linked(h5py.SoftLink(f"/{PLACE}")), ["no weights"]),
        (virtual, ["refers to another file", KEY]),
        (
            replace(shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)]),
            ["refers to another file", KEY],
        ),
        (replace(data=np.zeros(10**6, "f4"), compression="gzip"), ["compressed", KEY]),
        (replace(shape=(2**40,), dtype="f4"), ["stores 0 bytes for shape [1099511627776]", KEY]),
        (replace(shape=(2**40,), dtype="f4", chunks=(1024,)), ["stores 0 bytes", KEY]),
        (replace(data=["text"]), ["holds no numbers", KEY]),
        (replace(data=np.zeros(4, "c8")), ["holds no numbers", KEY]),
        (replace(data=np.zeros(4, [("a", "f4"), ("b", "f4")])), ["holds no numbers", KEY]),
        (replace(data=h5py.Empty("f4")), ["holds no numbers", KEY]),
    ],
)  # fmt: skip
def test_wrong_contents(tmp_path, change, parts):
    make(tmp_path, change)
    refuse(tmp_path, *parts)


def test_groups_that_contain_themselves(tmp_path):
    def loop(file):
        file[f"{LAYER}/again"] = file["/"]
        file[f"{LAYER}/twice/gamma:0"] = file[PLACE]

    make(tmp_path, loop)
    assert len(H5Reader.from_files(find_in(tmp_path)).keys()) == 1


def test_one_tensor_under_two_names(tmp_path):
    make(tmp_path, lambda file: file.create_dataset(f"b/{NAME}", data=np.zeros(4, "f4")))
    refuse(tmp_path, "is a second tensor of this key", f"key='{KEY}'")


@pytest.mark.parametrize("place", ["h_._1/attn/c_attn/weight:0", "h_._0", "ln_f/beta:0"])
def test_missing_groups_are_named_when_a_model_is_loaded(golden, tmp_path, place):
    shutil.copytree(golden / "tf_lm", tmp_path, dirs_exist_ok=True)
    with h5py.File(tmp_path / "tf_model.h5", "a") as file:
        del file[f"transformer/tfgpt2lm_head_model/transformer/{place}"]
    key, _ = key_from_name(f"transformer/{place}")
    with pytest.raises(ValueError, match=f"missing .*{key}.*checkpoint=.*{tmp_path.name}"):
        load_model(tfgpt2.TFGPT2LMHeadModel, tmp_path)


def test_files_that_are_not_hdf5(tmp_path):
    path = tmp_path / "tf_model.h5"
    for data in (b"", b"version https://git-lfs.github.com/spec/v1\n", bytes(5000)):
        path.write_bytes(data)
        refuse(tmp_path, "not a complete HDF5 file")
    make(tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    refuse(tmp_path, "not a complete HDF5 file")


def test_long_lists_of_names_are_split_as_in_keras(tmp_path):
    tensors = [
        StoredTensor(
            f"transformer.h.{i}.mlp.c_fc.bias", np.dtype("f4"), (2,), lambda: np.ones(2, "f4")
        )
        for i in range(2000)
    ]
    write_file(tensors, tmp_path / "tf_model.h5")
    with h5py.File(tmp_path / "tf_model.h5") as file:
        assert "weight_names" not in file[LAYER].attrs
        assert "weight_names0" in file[LAYER].attrs
    reader = H5Reader.from_files(find_in(tmp_path))
    assert set(reader.keys()) == {tensor.key for tensor in tensors}
    assert reader.shape(tensors[-1].key) == (2,)


def test_reads_one_tensor_at_a_time(tmp_path):
    size = 1_000_000
    values = np.ones((2, size // 2), "f4")
    tensors = [
        StoredTensor(
            f"transformer.h.{i}.mlp.c_fc.weight", values.dtype, values.shape, lambda: values
        )
        for i in range(8)
    ]
    write_file(tensors, tmp_path / "tf_model.h5")
    tracemalloc.start()
    reader = H5Reader.from_files(find_in(tmp_path))
    for key in reader.keys():
        assert reader.read(key)[-1, -1] == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * values.nbytes


@pytest.mark.parametrize("name", ["../x.h5", "/etc/passwd"])
def test_an_index_cannot_name_files_outside(tmp_path, name):
    index = {"weight_map": {"wte/weight:0": name}}
    (tmp_path / "tf_model.h5.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="outside its directory"):
        H5Reader.from_files(find_in(tmp_path))


def test_an_index_whose_shard_lacks_a_weight(golden, tmp_path):
    shutil.copytree(golden / "tf_sharded", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tf_model.h5.index.json"
    index = json.loads(path.read_text())
    names = index["weight_map"]
    files = sorted(set(names.values()))
    name = next(name for name, file in names.items() if file == files[0])
    names[name] = files[1]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="is missing.*key="):
        H5Reader.from_files(find_in(tmp_path))


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "file", "reader"),
    [("tf_lm", "tf_model.h5", H5Reader), ("keras_hub", "model.weights.h5", KerasHubReader)],
)
def test_random_damage_gives_a_value_or_a_clear_error(case, file, reader, golden, tmp_path):
    data = (golden / case / file).read_bytes()
    random = np.random.RandomState(1)
    for trial in range(150):
        damaged = bytearray(data)
        if trial % 5 == 0:
            damaged = damaged[: random.randint(len(damaged))]
        else:
            for _ in range(1 + trial % 20):
                damaged[random.randint(len(damaged))] = random.randint(256)
        (tmp_path / file).write_bytes(damaged)
        try:
            opened = reader.from_files(find_in(tmp_path))
            assert all(opened.read(key).nbytes <= len(data) for key in opened.keys())
        except ValueError as error:
            assert "is not a readable checkpoint" in str(error), error


# KerasHub's files -------------------------------------------------------------------------------

QUERY = "layers/transformer_decoder/_self_attention_layer/query_dense/vars/0"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (without(QUERY.replace("query", "value")), ["a projection is missing", "h.0.attn.value"]),
        (
            lambda file: file.create_dataset("layers/dense/vars/0", data=[1.0]),
            ["not part of GPT-2"],
        ),
        (
            lambda file: file.create_dataset("x/position_embedding/vars/0", data=[1.0]),
            ["are the same tensor", "key='wpe.weight'"],
        ),
        (
            lambda file: (file.__delitem__(QUERY), file.create_dataset(QUERY, (9, 9, 9**9))),
            ["stores 0 bytes"],
        ),
    ],
)
def test_wrong_presets(golden, tmp_path, change, parts):
    path = tmp_path / "model.weights.h5"
    shutil.copyfile(golden / "keras_hub" / path.name, path)
    with h5py.File(path, "a") as file:
        change(file)
    refuse(tmp_path, *parts, reader=KerasHubReader, file=path.name)


def test_a_preset_in_several_files(tmp_path):
    (tmp_path / "model.weights.json").write_text("{}")
    with pytest.raises(ValueError, match="several files"):
        KerasHubReader.from_files(find_in(tmp_path))


def test_an_empty_preset(tmp_path):
    with h5py.File(tmp_path / "model.weights.h5", "w"):
        pass
    refuse(tmp_path, "no weights", reader=KerasHubReader, file="model.weights.h5")
