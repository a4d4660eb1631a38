"""One export of a tiny random model for all LiteRT tests."""

import pytest

from tests.support import toy_text
from tfgpt2.litert import export


@pytest.fixture(scope="session")
def live():
    """A text generator with random weights."""
    return toy_text.generator(jit_compile=False)


@pytest.fixture(scope="session")
def exported(live, tmp_path_factory):
    """Its export in float32 for two rows, and the report."""
    folder = tmp_path_factory.mktemp("litert") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_SMALL_CACHES", (24,))  # so that texts outgrow it
        report = live.export_litert(folder, batch_size=2, prompt_buckets=[4, 16])
    return folder, report


@pytest.fixture(scope="session")
def loaded(exported, tmp_path_factory):
    """The export in the runtime."""
    from tfgpt2.litert import LiteRTGenerator

    cache_dir = tmp_path_factory.mktemp("weights")
    return LiteRTGenerator.from_pretrained(exported[0], cache_dir=cache_dir)
