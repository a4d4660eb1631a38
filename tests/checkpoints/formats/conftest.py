"""Checkpoints written by the original libraries; see `tests/golden/formats/make_formats.py`."""

import importlib.util
import tarfile

import pytest

from tests.support.paths import GOLDEN

FORMATS = GOLDEN / "formats"


def _module(name):
    spec = importlib.util.spec_from_file_location(name, FORMATS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def model():
    """The module that describes the model in the golden files."""
    return _module("weights")


@pytest.fixture(scope="session")
def weights(model):
    """Weights of that model, in PyTorch's names and layout."""
    return model.weights()


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    """A folder with one directory per case; see `make_formats.py`."""
    folder = tmp_path_factory.mktemp("golden")
    for path in sorted(FORMATS.glob("*.tar.xz")):
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    return folder
