"""Flax and TensorFlow 1 files that are damaged: a clear error, and little memory."""

import json
import shutil
import struct
import tracemalloc

import numpy as np
import pytest

from tests.support.checkpoint_loading import find_in
from tfgpt2.checkpoints.readers.flax_msgpack import FlaxReader
from tfgpt2.checkpoints.readers.tf1 import TF1Reader

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def text(value):
    return bytes([0xA0 | len(value)]) + value.encode()


def size(code, length):
    """The smallest of three ways to write a length."""
    if length < 256:
        return bytes([code, length])
    if length < 65536:
        return bytes([code + 1]) + struct.pack(">H", length)
    return bytes([code + 2]) + struct.pack(">I", length)


def packed_array(values, dtype=None, shape=None, kind=1):
    shape = values.shape if shape is None else shape
    numbers = values.tobytes()
    body = bytes([0x93, 0x90 | len(shape)])
    body += b"".join(b"\xcf" + struct.pack(">Q", n) for n in shape)
    body += text(dtype or values.dtype.name) + size(0xC4, len(numbers)) + numbers
    return size(0xC7, len(body)) + bytes([kind]) + body


def packed(value):
    if isinstance(value, dict):
        body = b"".join(text(name) + packed(inner) for name, inner in value.items())
        return b"\xde" + struct.pack(">H", len(value)) + body
    if isinstance(value, bytes):
        return value
    return packed_array(value)


def write(folder, value):
    (folder / "flax_model.msgpack").write_bytes(packed(value))


def refuse(folder, *parts):
    with pytest.raises(ValueError) as caught:
        reader = FlaxReader.from_files(find_in(folder))
        for key in reader.keys():
            reader.read(key)
    message = str(caught.value)
    assert message.startswith("flax_model.msgpack is not a readable checkpoint: "), message
    assert f"path='{folder / 'flax_model.msgpack'}'" in message
    for part in parts:
        assert part in message, message


def test_a_sound_file_is_read(tmp_path):
    write(tmp_path, {"params": {"h": {"0": {"kernel": VALUES, "bias": VALUES[0]}}}})
    reader = FlaxReader.from_files(find_in(tmp_path))
    np.testing.assert_array_equal(reader.read("h.0.weight"), VALUES.T)
    np.testing.assert_array_equal(reader.read("h.0.bias"), VALUES[0])


def test_this_file_packs_as_msgpack_does():
    msgpack = pytest.importorskip("msgpack")
    code, data = msgpack.unpackb(packed_array(VALUES))
    shape, dtype, numbers = msgpack.unpackb(data, raw=True)
    assert (code, shape, dtype, numbers) == (1, [2, 3], b"float32", VALUES.tobytes())


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (b"", "cut short"),
        (b"\x80", "no arrays"),
        (b"\x01", "not a msgpack map"),
        (b"\x80\x80", "not a msgpack map"),
        (b"\xdf\xff\xff\xff\xff", "cut short"),
        (b"\x81" * 100_000, "nested too deeply"),
        (b"\x81\x80\x01", "invalid or repeated name"),
        ((b"\x81" + text("a")) * 100_000, "nested too deeply"),
        (b"\x82" + (text("a") + packed_array(VALUES)) * 2, "repeated name"),
        (b"\x81\xdb\xff\xff\xff\xff", "a length of 4294967295 bytes"),
        ({"a": b"\xc0"}, "type 0xc0"),
        ({"a": b"\xca\x00\x00\x00\x00"}, "type 0xca"),
        ({"a": b"\x93\x01\x02\x03"}, "type 0x93"),
        ({"a": b"\x05"}, "it holds a int where an array is expected"),
        ({"a": b"\xc9\xff\xff\xff\xff\x01"}, "extension of type 1 and 4294967295 bytes"),
        ({"a": packed_array(VALUES, kind=3)}, "extension of type 3"),
        ({"a": packed_array(VALUES, shape=(2, 4))}, "array of shape [2, 4]"),
        ({"a": packed_array(VALUES, shape=(2**40, 2**40))}, "has 24 bytes"),
        ({"a": packed_array(VALUES, shape=(1,) * 9)}, "no readable shape"),
        ({"a": packed_array(VALUES, dtype="object")}, "unknown type"),
        ({"a": packed_array(VALUES, dtype="complex64")}, "unknown type"),
        ({"a": b"\xc7\x03\x01\x93\x90\x80"}, "unknown type"),
        ({"a": {"__msgpack_chunked_array__": b"\xc3"}}, "pieces of an array"),
        (
            {"a": {"__msgpack_chunked_array__": b"\xc3", "shape": {"0": b"\x09"},
                   "chunks": {"0": VALUES}}},
            "do not match its shape",
        ),
        (
            {"a": {"__msgpack_chunked_array__": b"\xc3", "shape": {"0": b"\x05"},
                   "chunks": {"1": VALUES}}},
            "pieces of an array",
        ),
    ],
)  # fmt: skip
def test_wrong_contents(tmp_path, value, part):
    write(tmp_path, value)
    refuse(tmp_path, part)


def test_reads_one_tensor_at_a_time(tmp_path):
    values = np.ones((2, 500_000), "f4")
    write(tmp_path, {f"h{i}": {"embedding": values} for i in range(8)})
    tracemalloc.start()
    reader = FlaxReader.from_files(find_in(tmp_path))
    for key in reader.keys():
        assert reader.read(key)[-1, -1] == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * values.nbytes


def test_random_damage_gives_a_value_or_a_clear_error(golden, tmp_path):
    data = (golden / "flax" / "flax_model.msgpack").read_bytes()
    random = np.random.RandomState(0)
    path = tmp_path / "flax_model.msgpack"
    for trial in range(400):
        damaged = bytearray(data)
        if trial % 4 == 0:
            damaged = damaged[: random.randint(len(damaged))]
        else:
            for _ in range(1 + trial % 3):
                damaged[random.randint(len(damaged))] = random.randint(256)
        path.write_bytes(damaged)
        try:
            reader = FlaxReader.from_files(find_in(tmp_path))
            assert all(reader.read(key).nbytes <= len(data) for key in reader.keys())
        except ValueError as error:
            assert "is not a readable checkpoint" in str(error), error


# TensorFlow 1 -----------------------------------------------------------------------------------


@pytest.fixture
def tf1(golden, tmp_path):
    folder = tmp_path / "tf1"
    shutil.copytree(golden / "tf1", folder)
    return folder


def test_slots_and_counters_are_left_out(tf1, model):
    reader = TF1Reader.from_files(find_in(tf1))
    assert {f"transformer.{key}" for key in reader.keys()} == model.shapes().keys()


@pytest.mark.parametrize(
    ("listing", "error", "part"),
    [
        ("", ValueError, "names no `model_checkpoint_path`"),
        ('model_checkpoint_path: "../../etc/passwd"', FileNotFoundError, "passwd.index"),
        ('model_checkpoint_path: "model-8"', FileNotFoundError, "model-8.index"),
    ],
)
def test_the_listing(tf1, listing, error, part):
    (tf1 / "checkpoint").write_text(listing)
    with pytest.raises(error, match=part):
        TF1Reader.from_files(find_in(tf1))


def test_paths_of_another_machine_are_ignored(tf1):
    for path in ("/home/me/checkpoint/run1/model-7", "C:\\\\runs\\\\model-7", "run1/model-7"):
        (tf1 / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
        assert TF1Reader.from_files(find_in(tf1)).shape("wte.weight") == (29, 8)


def test_the_original_name_needs_no_listing(tf1):
    (tf1 / "checkpoint").unlink()
    assert TF1Reader.from_files(find_in(tf1)) is None
    for path in list(tf1.glob("model-7.*")):
        path.rename(tf1 / path.name.replace("model-7", "model.ckpt"))
    assert TF1Reader.from_files(find_in(tf1)).shape("wte.weight") == (29, 8)


def test_damaged_files(tf1):
    data = tf1 / "model-7.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:100])
    reader = TF1Reader.from_files(find_in(tf1))
    with pytest.raises(ValueError, match="model-7.index.*key="):
        [reader.read(key) for key in reader.keys()]
    with pytest.raises(ValueError, match="more numbers than its data files, 100 bytes"):
        reader.read("wte.weight")  # before anything of that size is allocated
    data.write_bytes(b"\xff" * len(whole))  # TensorFlow keeps checksums
    reader = TF1Reader.from_files(find_in(tf1))
    with pytest.raises(ValueError, match="key='wte.weight'"):
        reader.read("wte.weight")
    data.unlink()
    with pytest.raises(FileNotFoundError, match="model-7.data-00000-of-00001"):
        TF1Reader.from_files(find_in(tf1))
    data.write_bytes(whole)
    for damage in (b"", b"x" * 1000):
        (tf1 / "model-7.index").write_bytes(damage)
        with pytest.raises(ValueError, match="model-7.index is not a readable checkpoint"):
            TF1Reader.from_files(find_in(tf1))


def test_other_models(tmp_path):
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("bert/embeddings/word", initializer=np.ones(3, "f4"))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    with pytest.raises(
        ValueError, match="does not hold GPT-2 but the variables bert/embeddings/word"
    ):
        TF1Reader.from_files(find_in(tmp_path))


@pytest.mark.parametrize("value", ["", "[]", '{"n_vocab": 3}', "3"])
def test_hparams(tmp_path, value):
    path = tmp_path / "hparams.json"
    path.write_text(value)
    with pytest.raises(ValueError, match="hparams.json is not a readable checkpoint"):
        TF1Reader.read_config(path)


def test_hparams_of_all_sizes(tmp_path):
    path = tmp_path / "hparams.json"
    sizes = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
    path.write_text(json.dumps(sizes))
    config = TF1Reader.read_config(path)
    assert config["vocab_size"] == 50257 and config["eos_token_id"] == 50256
