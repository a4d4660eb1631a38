"""Generators with the toy tokenizer and random weights."""

import pytest

from tests.support import toy_text


@pytest.fixture(scope="package")
def gen():
    return toy_text.generator(jit_compile=False)


@pytest.fixture(scope="package")
def compiled():
    return toy_text.generator()
