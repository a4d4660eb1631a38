"""A client whose requests go to a fake server, and short pauses between attempts."""

import pytest

from tests.support.fake_model import FakeRestServer, make_client
from tfgpt2.serving.client import retrying


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(retrying, "_FIRST_PAUSE", 1e-3)


@pytest.fixture
def rest():
    return FakeRestServer()


@pytest.fixture
def client(rest):
    return make_client(rest)
