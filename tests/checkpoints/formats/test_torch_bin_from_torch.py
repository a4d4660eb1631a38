"""`pytorch_model.bin` as the installed torch writes it: types, strides, shared storages."""

import collections

import numpy as np
import pytest

from tests.support.checkpoint_loading import find_in
from tfgpt2.checkpoints.readers.torch_bin import TorchBinReader

torch = pytest.importorskip("torch")

TYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"]


def states():
    torch.manual_seed(0)
    whole = torch.randn(7, 6, 5)
    state = collections.OrderedDict(
        whole=whole,
        transposed=whole.permute(2, 0, 1),
        part=whole[2:5, 1],
        column=whole[:, :, 3],
        every_second=whole[::2, ::3],
        scalar=torch.tensor(2.5),
        empty=torch.empty(0, 4),
        parameter=torch.nn.Parameter(torch.randn(3)),
        frozen=torch.nn.Parameter(torch.randn(3), requires_grad=False),
        truth=torch.tensor([True, False]),
    )
    state["tied"] = state["parameter"]
    for name in TYPES:
        state[f"type.{name}"] = (torch.randn(4, 3) * 20).to(getattr(torch, name))
    return state


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_kind_of_tensor(tmp_path, zipped, protocol):
    state = states()
    torch.save(
        state,
        tmp_path / "pytorch_model.bin",
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    reader = TorchBinReader.from_files(find_in(tmp_path))
    assert reader.keys() == list(state)
    for key, wanted in state.items():
        found = reader.read(key)
        assert found.shape == reader.shape(key) == tuple(wanted.shape), key
        assert found.dtype.name == reader.dtype(key).name == str(wanted.dtype)[6:], key
        wide = torch.float64 if wanted.dtype.is_floating_point else torch.int64
        np.testing.assert_array_equal(
            found.astype(np.float64), wanted.detach().to(wide).numpy(), err_msg=key
        )


def test_expanded_tensors_are_refused_only_when_read(tmp_path):
    torch.save({"a.wide": torch.ones(1).expand(1000), "b": torch.ones(2)},
               tmp_path / "pytorch_model.bin")  # fmt: skip
    reader = TorchBinReader.from_files(find_in(tmp_path))
    assert reader.shape("a.wide") == (1000,)
    np.testing.assert_array_equal(reader.read("b"), [1, 1])
    with pytest.raises(ValueError, match="more elements than the file stores"):
        reader.read("a.wide")


def test_whole_models_and_optimizers_are_refused(tmp_path):
    linear = torch.nn.Linear(2, 2)
    torch.save(linear, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="torch.nn.modules.linear.Linear"):
        TorchBinReader.from_files(find_in(tmp_path))
    torch.save({"state_dict": linear.state_dict(), "epoch": 1}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="training program.*'state_dict'"):
        TorchBinReader.from_files(find_in(tmp_path))


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_one_tensor_at_a_time(tmp_path, zipped):
    import tracemalloc

    size = 2_000_000
    state = {f"h.{i}.weight": torch.full((size,), float(i)) for i in range(8)}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    tracemalloc.start()
    reader = TorchBinReader.from_files(find_in(tmp_path))
    for i, key in enumerate(reader.keys()):
        assert reader.read(key)[-1] == i
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * 4 * size


@pytest.mark.parametrize("checksums", [True, False])
def test_checksums(tmp_path, checksums):
    """Damage to a tensor is found; a file that was saved without checksums is loaded."""
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch always writes checksums")
    state, path = {"a": torch.arange(10.0), "b": torch.ones(3)}, tmp_path / "pytorch_model.bin"
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(TorchBinReader([path]).read("a"), np.arange(10))
    content = bytearray(path.read_bytes())
    content[content.find(np.arange(10, dtype="f4").tobytes()[4:])] ^= 1
    path.write_bytes(content)
    reader = TorchBinReader([path])
    np.testing.assert_array_equal(reader.read("b"), np.ones(3))
    if checksums:
        with pytest.raises(ValueError, match="do not match their checksum"):
            reader.read("a")
    else:
        assert reader.read("a")[1] != 1
