"""`pytorch_model.bin` files that are malicious or damaged: a clear error; nothing is executed."""

import collections
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from tests.support.checkpoint_loading import find_in
from tfgpt2.checkpoints.readers import torch_pickle
from tfgpt2.checkpoints.readers.torch_bin import TorchBinReader

NUMBERS = np.arange(6, dtype=np.float32)


class Named:
    """Pickles as a reference to `module.name`, whatever that is."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickles as a call of a named function."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state


class Storage(tuple):
    """Pickles as a reference to a storage."""


class Pickler(pickle._Pickler):
    """Writes what `torch.save` writes, without torch, and whatever else a test wants."""

    def persistent_id(self, value):
        return tuple(value) if type(value) is Storage else None

    def save(self, value, save_persistent_id=True):
        if type(value) is Named:
            return self.write(f"c{value.module}\n{value.name}\n".encode())
        if type(value) is Call:
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
            if value.state is not None:
                self.save(value.state)
                self.write(pickle.BUILD)
            return None
        return super().save(value, save_persistent_id)


def pickled(value, protocol=2):
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def storage(key="0", length=6, kind="FloatStorage"):
    return Storage(("storage", Named("torch", kind), key, "cpu", length))


def tensor(offset=0, shape=(2, 3), strides=(3, 1), **options):
    rebuild = Named("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage(**options), offset, shape, strides, False, {})


def write(folder, state, *, protocol=2, files=None, compression=zipfile.ZIP_STORED, name="a"):
    data = state if isinstance(state, bytes) else pickled(state, protocol)
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{name}/data.pkl", data)
        for file, content in ({"data/0": NUMBERS.tobytes()} if files is None else files).items():
            archive.writestr(f"{name}/{file}", content)
    return path


def refuse(folder, *parts):
    with pytest.raises(ValueError) as caught:
        reader = TorchBinReader.from_files(find_in(folder))
        for key in reader.keys():
            reader.read(key)
    message = str(caught.value)
    assert message.startswith("pytorch_model.bin is not a readable checkpoint: ")
    assert f"Received: path='{folder / 'pytorch_model.bin'}'" in message
    assert message.endswith("Download or save it again.")
    for part in parts:
        assert part in message, message


def test_a_sound_file_is_read(tmp_path):
    for protocol in (2, 3, 4, 5):
        write(tmp_path, {"w.weight": tensor()}, protocol=protocol)
        reader = TorchBinReader.from_files(find_in(tmp_path))
        np.testing.assert_array_equal(reader.read("w.weight"), NUMBERS.reshape(2, 3))


# Code -----------------------------------------------------------------------------------------

EVIL = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("subprocess", "Popen"),
    ("runpy", "_run_code"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("torch._utils", "_rebuild_wrapper_subclass"),
    ("torch.storage", "_load_from_bytes"),
    ("torch.serialization", "load"),
    ("collections", "OrderedDict.fromkeys"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("numpy", "load"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
    ("pathlib", "Path"),
]


@pytest.mark.parametrize(("module", "name"), EVIL)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_call_is_refused_by_name_and_not_executed(tmp_path, module, name, protocol):
    witness = tmp_path / "witness"
    state = {
        "h.0.ln_1.weight": tensor(),
        "h.0.ln_1.bias": Call(Named(module, name), f"touch {witness}"),
    }
    write(tmp_path, state, protocol=protocol)
    refuse(tmp_path, f"`{module}.{name}`", "nothing was executed", "'h.0.ln_1.bias'")
    assert not witness.exists()


def test_the_same_file_does_run_with_pickle(tmp_path):
    """The attack works on plain `pickle`."""
    witness = tmp_path / "witness"
    data = pickled(Call(Named("os", "system"), f"touch {witness}"))
    pickle.loads(data)
    assert witness.exists()
    witness.unlink()
    write(tmp_path, data)
    refuse(tmp_path, "`os.system`")
    assert not witness.exists()


OPCODES = {
    "INST": b"(S'touch x'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'x'\no.",
    "NEWOBJ": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
    "EXT1": b"\x80\x02\x82\x01.",
    "PERSID": b"P0\n.",
    "DUP": b"N2.",
    "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b".",
    "STACK_GLOBAL of a number": b"\x80\x04K\x01K\x02\x93.",
    "BUILD of a list": b"\x80\x02]}b.",
    "BUILD of nothing": b"\x80\x02}b.",
    "REDUCE of a string": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "REDUCE without a tuple": b"\x80\x02ccollections\nOrderedDict\n]R.",
    "SETITEM of a list": b"\x80\x02]K\x01K\x02s.",
    "a key that is a tuple": b"\x80\x02})K\x02s.",
    "APPEND to a dict": b"\x80\x02}K\x01a.",
    "a mark that is missing": b"\x80\x02K\x01t.",
    "an empty stack": b"\x80\x02.",
    "a memo that is missing": b"\x80\x02h\x05.",
    "two values": b"\x80\x02NN.",
    "no end": b"\x80\x02}",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "a string that claims four gigabytes": b"\x80\x02X\xff\xff\xff\xff.",
    "a persistent id that is no tuple": b"\x80\x02K\x01Q.",
}


@pytest.mark.parametrize("name", OPCODES)
def test_other_opcodes_are_refused(tmp_path, name):
    write(tmp_path, OPCODES[name])
    refuse(tmp_path)


def test_builders_accept_descriptions_only(tmp_path):
    """A builder refuses anything else that a file passes to it."""
    ordered, rebuild = Named("collections", "OrderedDict"), Named("torch._utils", "_rebuild_tensor")
    parameter = Named("torch._utils", "_rebuild_parameter")
    for value in (
        Call(ordered, 3, 4, 5),
        Call(ordered, [[1, 2, 3]]),
        Call(ordered, [[(1,), 2]]),
        Call(rebuild, "no storage", 0, (1,), (1,)),
        Call(rebuild, storage(), 0, [1], [1]),
        Call(rebuild, storage(), 0, (2.5,), (1,)),
        Call(rebuild, storage(), -1, (1,), (1,)),
        Call(rebuild, storage(), 0, (1, 2), (1,)),
        Call(rebuild, storage()),
        Call(parameter, "no tensor", True, {}),
        Call(Named("torch._utils", "_rebuild_tensor_v3"), storage(), 0, (1,), (1,), 0, {}, "f"),
    ):
        write(tmp_path, {"w.weight": value})
        refuse(tmp_path)


def test_deep_nesting_neither_overflows_nor_hangs(tmp_path):
    depth = 200_000
    write(tmp_path, b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    refuse(tmp_path)
    write(tmp_path, b"\x80\x02N" + b"\x85" * depth + b".")
    refuse(tmp_path)
    doubling = b"\x80\x02Nq\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"."  # 2**60 leaves, shared
    write(tmp_path, doubling)
    refuse(tmp_path)


def test_a_pickle_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_pickle, "_MAX_BYTES", 1000)
    write(tmp_path, b"\x80\x02" + b"N0" * 1000 + b".")
    refuse(tmp_path)
    monkeypatch.setattr(torch_pickle, "_MAX_BYTES", 10**8)
    monkeypatch.setattr(torch_pickle, "_MAX_OPCODES", 100)
    write(tmp_path, b"\x80\x02" + b"N" * 1000 + b".")
    refuse(tmp_path, "more than 100 opcodes")


# Sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"length": 7}, "24 bytes instead of 28"),
        ({"length": 2**60}, "24 bytes instead of"),
        ({"length": -6}, "damaged"),
        ({"kind": "DoubleStorage"}, "24 bytes instead of 48"),
        ({"kind": "ComplexFloatStorage"}, "`torch.ComplexFloatStorage`"),
        ({"kind": "UntypedStorage"}, "24 bytes instead of 6"),
        ({"key": "../../etc/passwd"}, "missing"),
        ({"key": "1"}, "missing"),
        ({"shape": (2, 4), "strides": (4, 1)}, "reaches over 32 bytes of a storage of 24"),
        ({"offset": 1}, "reaches over 28 bytes"),
        ({"offset": 2**62}, "negative or fractional"),
        ({"shape": (2**40, 2**40), "strides": (0, 0)}, "more elements than the file stores"),
        ({"shape": (6, 6), "strides": (0, 1)}, "more elements than the file stores"),
        ({"shape": (2**61, 2), "strides": (2**61, 1)}, "reaches over"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "does not match its strides"),
    ],
)
def test_wrong_sizes(tmp_path, options, part):
    state = {"h.0.ln_1.bias": tensor(key="b"), "h.0.ln_1.weight": tensor(**options)}
    files = {"data/0": NUMBERS.tobytes(), "data/b": NUMBERS.tobytes()}
    write(tmp_path, state, files=files)
    refuse(tmp_path, part)


def test_one_storage_in_two_ways(tmp_path):
    write(tmp_path, {"a.b": tensor(), "a.c": tensor(kind="IntStorage")})
    refuse(tmp_path, "in two different ways", "'a.c'")


def test_zip_bombs(tmp_path):
    big = bytes(50_000_000)
    state = {"w.weight": tensor(length=len(big) // 4, shape=(1,), strides=(1,))}
    path = write(tmp_path, state, files={"data/0": big}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    refuse(tmp_path, "compressed", "which PyTorch never does")
    pickle_bomb = b"\x80\x02" + b"N0" * 10_000_000 + b"."
    write(tmp_path, pickle_bomb, compression=zipfile.ZIP_DEFLATED)
    refuse(tmp_path, "'a/data.pkl'", "compressed")


def test_broken_archives(tmp_path):
    path = write(tmp_path, {"w.weight": tensor()}, files={})
    refuse(tmp_path, "missing")
    write(tmp_path, {"w.weight": tensor()}, files={"byteorder": "big"})
    refuse(tmp_path, "little-endian")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/other", b"")
    refuse(tmp_path, "0 files `data.pkl`")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("b/data.pkl", b"")
    refuse(tmp_path, "2 files `data.pkl`")
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    refuse(tmp_path, "zip archive is damaged")
    path.write_bytes(b"")
    refuse(tmp_path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refuse(tmp_path, "neither a zip archive nor a file of `torch.save`")


# Other contents --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "parts"),
    [
        ({}, ["not hold a state dict"]),
        ([1, 2], ["not hold a state dict"]),
        ({"epoch": 3}, ["'epoch'", "int"]),
        ({"model": {"w": tensor()}, "epoch": 3}, ["training program", "'model'"]),
        ({3: tensor()}, ["under 3"]),
        (tensor(), ["not hold a state dict"]),
    ],
)
def test_other_contents(tmp_path, state, parts):
    write(tmp_path, state)
    refuse(tmp_path, *parts)


# The index --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/passwd", "a/b.bin", "..\\x.bin", "a\0b"])
def test_an_index_cannot_name_files_outside(tmp_path, name):
    import json

    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ValueError, match="outside its directory"):
        TorchBinReader.from_files(find_in(tmp_path))


def test_a_missing_shard_and_a_damaged_index(tmp_path):
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"w": "pytorch_model-00001-of-00002.bin"}}')
    with pytest.raises(FileNotFoundError, match="00001-of-00002"):
        TorchBinReader.from_files(find_in(tmp_path))
    for text in ("", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "[" * 100_000):
        index.write_text(text)
        with pytest.raises(
            ValueError, match="not an index of shards|not valid JSON|expected a JSON object"
        ):
            TorchBinReader.from_files(find_in(tmp_path))


# Random damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["torch_zip", "torch_legacy"])
def test_random_damage_gives_a_value_or_a_clear_error(case, golden, tmp_path):
    data = (golden / case / "pytorch_model.bin").read_bytes()
    random = np.random.RandomState(0)
    path = tmp_path / "pytorch_model.bin"
    refused = 0
    for trial in range(400):
        damaged = bytearray(data)
        if trial % 4 == 0:
            damaged = damaged[: random.randint(len(damaged))]
        else:
            for _ in range(1 + trial % 3):
                damaged[random.randint(len(damaged))] = random.randint(256)
        path.write_bytes(damaged)
        try:
            reader = TorchBinReader.from_files(find_in(tmp_path))
            for key in reader.keys():
                assert reader.read(key).nbytes <= len(data)
        except ValueError as error:
            assert "is not a readable checkpoint" in str(error), error
            refused += 1
    assert refused > 100


def test_the_writer_pickles_as_torch_does(tmp_path):
    """The writer above, compared with the library."""
    torch = pytest.importorskip("torch")
    state = collections.OrderedDict(w=torch.arange(6.0).reshape(2, 3))
    torch.save(state, tmp_path / "pytorch_model.bin")
    wanted = TorchBinReader.from_files(find_in(tmp_path)).read("w")
    write(tmp_path, {"w": tensor()}, files={"data/0": NUMBERS.tobytes(), "version": "3\n"})
    found = TorchBinReader.from_files(find_in(tmp_path)).read("w")
    np.testing.assert_array_equal(found, wanted)
    loaded = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    np.testing.assert_array_equal(loaded["w"].numpy(), wanted)
