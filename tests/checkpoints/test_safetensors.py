"""The safetensors format: compared with its library in both directions; damage is found."""

import json
import math
import os
import stat

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from tfgpt2.checkpoints.readers.safetensors import SafetensorsReader
from tfgpt2.checkpoints.writers.base import StoredTensor
from tfgpt2.checkpoints.writers.safetensors import write_file

TYPES = ["float64", "float32", "float16", ml_dtypes.bfloat16, "int64", "int8", "uint8", "bool"]


def raw(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (0,), (2, 0, 3), (4, 1, 2, 2)], ids=str)
def test_both_libraries_agree(dtype, shape, tmp_path):
    array = np.asarray(np.random.RandomState(0).standard_normal(shape) * 9).astype(dtype)
    tensors = {"a.b": array, "ü": np.arange(3).astype(np.float32)}
    save_file(tensors, tmp_path / "theirs")
    write_file(
        [StoredTensor(k, v.dtype, v.shape, lambda v=v: v) for k, v in tensors.items()],
        tmp_path / "ours",
    )
    for name in ("theirs", "ours"):
        reader = SafetensorsReader([tmp_path / name])
        assert sorted(reader.keys()) == sorted(tensors)
        assert reader.shape("a.b") == shape and reader.dtype("a.b") == array.dtype
        read = reader.read("a.b")
        assert read.dtype == array.dtype and np.array_equal(read, array)
    if dtype is not ml_dtypes.bfloat16:
        again = load_file(tmp_path / "ours")["a.b"]
        assert again.dtype == array.dtype and np.array_equal(again, array)
    with safe_open(tmp_path / "ours", "np") as file:
        assert file.metadata() == {"format": "pt"}
    assert int.from_bytes((tmp_path / "ours").read_bytes()[:8], "little") % 8 == 0


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_permissions_of_any_new_file(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        write_file(
            [StoredTensor("a", np.dtype("f4"), (1,), lambda: np.ones(1, "f4"))], tmp_path / "file"
        )
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_tensor_that_is_not_what_was_announced(tmp_path):
    with pytest.raises(ValueError, match="values of a must have shape"):
        write_file(
            [StoredTensor("a", np.dtype("f4"), (2,), lambda: np.ones(3, "f4"))], tmp_path / "file"
        )


WRONG_FILES = {
    "empty file": (lambda p: p.write_bytes(b""), "header claims 0 bytes of a file of 0"),
    "seven bytes": (lambda p: p.write_bytes(b"\0" * 7), "of a file of 7"),
    "header beyond the end": (
        lambda p: p.write_bytes((999).to_bytes(8, "little") + b"{}"),
        "header claims 999 bytes of a file of 10"),
    "gigantic header": (
        lambda p: p.write_bytes(b"\xff" * 8 + b"{}" * 9), "header claims 18446744073709551615"),
    "not JSON": (lambda p: raw(p, b"{'a': 1}"), "header is not valid JSON"),
    "not UTF-8": (lambda p: raw(p, b"\xff\xfe\xfd"), "header is not valid JSON"),
    "deep JSON": (lambda p: raw(p, b"[" * 50_000), "header is not valid JSON"),
    "list": (lambda p: raw(p, []), "header is not a table of tensors"),
    "number": (lambda p: raw(p, {"a": 3}), "header is not a table"),
    "no offsets": (lambda p: raw(p, {"a": {"dtype": "F32", "shape": [1]}}), "data_offsets"),
    "unknown type": (
        lambda p: raw(p, {"a": entry([1], 0, 4, "F31")}, bytes(4)),
        "the type 'F31' is not one of F64, F32"),
    "type is a list": (lambda p: raw(p, {"a": entry([1], 0, 4, [1])}, bytes(4)), "not a table"),
    "negative offset": (lambda p: raw(p, {"a": entry([1], -4, 0)}, bytes(4)), "negative or"),
    "negative shape": (lambda p: raw(p, {"a": entry([-1, -1], 0, 4)}, bytes(4)), "negative or"),
    "fractional shape": (lambda p: raw(p, {"a": entry([1.0], 0, 4)}, bytes(4)), "negative or"),
    "true as a shape": (lambda p: raw(p, {"a": entry([True], 0, 4)}, bytes(4)), "negative or"),
    "shape is text": (lambda p: raw(p, {"a": entry("12", 0, 4)}, bytes(4)), "negative or"),
    "three offsets": (
        lambda p: raw(p, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}),
        "not a table"),
    "wrong size": (
        lambda p: raw(p, {"a": entry([2], 0, 4)}, bytes(4)), r"4 bytes for shape \[2\] of F32"),
    "wrong type": (lambda p: raw(p, {"a": entry([2], 0, 8, "F16")}, bytes(8)), "8 bytes for shape"),
    "offsets turned round": (lambda p: raw(p, {"a": entry([1], 4, 0)}, bytes(4)), "-4 bytes"),
    "giant shape": (
        lambda p: raw(p, {"a": entry([10**9, 10**9], 0, 4 * 10**18)}, bytes(4)), "it is cut short"),
    "overflowing shape": (
        lambda p: raw(p, {"a": entry([2**32, 2**32], 0, 0)}, b""), "0 bytes for shape"),
    "cut short": (
        lambda p: raw(p, {"a": entry([2], 0, 8)}, bytes(7)),
        r"a tensor ends at byte \d+ of a file of \d+: it is cut short. .*key='a'"),
    "same bytes twice": (
        lambda p: raw(p, {"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4)),
        "a tensor begins at byte .*key='b'"),
    "overlap": (
        lambda p: raw(p, {"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)), "begins at"),
    "hole": (
        lambda p: raw(p, {"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "begins at"),
    "bytes left over": (lambda p: raw(p, {"a": entry([1], 0, 4)}, bytes(5)), "its tensors end at"),
    "the same key twice": (
        lambda p: raw(p, b'{"a":' + json.dumps(entry([1], 0, 4)).encode() + b',"a":'
                      + json.dumps(entry([1], 4, 8)).encode() + b"}", bytes(8)),
        "begins at"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_files(name, tmp_path):
    make, text = WRONG_FILES[name]
    path = tmp_path / "model.safetensors"
    make(path)
    with pytest.raises(ValueError, match=f"not a readable .*checkpoint: .*{text}") as caught:
        SafetensorsReader([path])
    assert "Received: path='" in str(caught.value) and "again." in str(caught.value)
    with pytest.raises(SafetensorError):  # the library agrees
        load_file(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_never_crashes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "model.safetensors"
    save_file({"a": np.ones((2, 3), "f4"), "b": np.zeros(4, "f2")}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        content = content or bytearray(b"x")
    path.write_bytes(content)
    try:
        reader = SafetensorsReader([path])
        for key in reader.keys():
            array = reader.read(key)
            assert array.nbytes == math.prod(reader.shape(key)) * reader.dtype(key).itemsize
    except ValueError as error:
        assert "Download or save it again." in str(error)  # noqa: PT017


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    save_file({"a": np.ones(1000, "f4")}, tmp_path / "f")
    reader = SafetensorsReader([tmp_path / "f"])
    os.truncate(tmp_path / "f", 500)
    with pytest.raises(ValueError, match="ended inside a tensor.*key='a'"):
        reader.read("a")


def test_one_tensor_in_two_shards(tmp_path):
    for name in ("one", "two"):
        save_file({"a": np.ones(1, "f4")}, tmp_path / name)
    with pytest.raises(ValueError, match="the tensor is also in .*key='a'"):
        SafetensorsReader([tmp_path / "one", tmp_path / "two"])


INDEXES = {
    "not JSON": (b"{", "not valid JSON"),
    "no map": (b"{}", "not an index of shards"),
    "list": (b"[]", "expected a JSON object"),
    "empty": (b'{"weight_map": {}}', "not an index of shards"),
    "numbers": (b'{"weight_map": {"a": 3}}', "not an index of shards"),
    "parent": (b'{"weight_map": {"a": "../secret"}}', "outside its directory, '../secret'"),
    "absolute": (b'{"weight_map": {"a": "/etc/passwd"}}', "outside its directory, '/etc/passwd'"),
    "folder": (b'{"weight_map": {"a": ".."}}', "outside its directory, '..'|does not exist"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_wrong_indexes(name, tmp_path):
    content, text = INDEXES[name]
    save_file({"a": np.ones(1, "f4")}, tmp_path / "secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_bytes(content)

    def find(name):
        path = folder / name
        return path if path.is_file() else None

    with pytest.raises((ValueError, FileNotFoundError), match=text):
        SafetensorsReader.from_files(find)


def test_missing_shard(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')

    def find(name):
        return index if name == index.name else None

    with pytest.raises(FileNotFoundError, match="does not exist. Received: .*shard='model-00001-"):
        SafetensorsReader.from_files(find)
