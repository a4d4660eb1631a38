"""What every test may ask for."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs; tests that need it are skipped where it is absent."""
    here = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("TFGPT2_TEST_DATA") or here.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no shared data: set TFGPT2_TEST_DATA")
    return folder
