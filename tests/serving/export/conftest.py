"""A small generator and its export without XLA, made once for all tests of this folder."""

import pytest
import tensorflow as tf

from tests.support import toy_text
from tfgpt2 import GenerationConfig
from tfgpt2.serving.export.signatures import registry

DEFAULTS = GenerationConfig(max_new_tokens=6, do_sample=True, temperature=0.5, top_k=7, seed=3,
                            stop_strings=["zz", "é"])  # fmt: skip


@pytest.fixture(scope="session")
def gen():
    return toy_text.generator(generation_config=DEFAULTS, jit_compile=False)


@pytest.fixture(scope="session")
def checked_export(gen, tmp_path_factory):
    """The report of a checked export, and the live functions it was checked with."""
    path, functions = tmp_path_factory.mktemp("models") / "toy" / "1", {}
    build = registry.build

    def build_and_keep(signatures):
        functions.update(build(signatures))
        return functions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "build", build_and_keep)
        return gen.export(path, jit_compile=False), functions


@pytest.fixture(scope="session")
def report(checked_export):
    return checked_export[0]


@pytest.fixture(scope="session")
def live(checked_export):
    return checked_export[1]


@pytest.fixture(scope="session")
def loaded(report):
    """Signatures of the export, loaded here."""
    return tf.saved_model.load(report.path).signatures
