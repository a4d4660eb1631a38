"""`tfgpt2 models`, `pull` and `rm`, on a cache and a hub of the tests."""

import json
import shutil

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from tests.support.hub_server import FakeHub
from tfgpt2.cli.main import app
from tfgpt2.hub import ASSETS


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with a GPT-2 and a BERT."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    for name, kind in (("me--tiny", "gpt2"), ("me--other", "bert")):
        snapshot = cache / f"models--{name}" / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps({"model_type": kind}))
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    return cache


def test_models_lists_what_can_be_loaded(run, cache):
    text = run("models")
    assert "shakespeare-tiny" in text and "bundled" in text
    assert "me/tiny" in text and "me/other" not in text
    assert "bert" in run("models", "--all")


def test_models_without_a_cache(run, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert "shakespeare-tiny" in run("models")


def test_rm_asks_and_removes_from_the_cache(run, cache):
    answered = CliRunner().invoke(app, ["rm", "me/tiny"], input="n\n")
    assert answered.exit_code == 1 and (cache / "models--me--tiny").exists()
    assert "me/tiny  removed" in run("rm", "me/tiny", "--yes")
    assert not (cache / "models--me--tiny").exists() and (cache / "models--me--other").exists()
    refused = CliRunner().invoke(app, ["rm", "me/othr"])
    assert "Did you mean 'me/other'" in str(refused.exception)
    refused = CliRunner().invoke(app, ["rm", "shakespeare-tiny"])
    assert "part of the package" in str(refused.exception)


def test_pull_downloads_what_loading_needs(run, cache, tmp_path, monkeypatch):
    shutil.copytree(ASSETS / "shakespeare-tiny", tmp_path / "hub/me/shakespeare")
    (tmp_path / "hub/me/shakespeare/rust_model.ot").write_text("not needed")
    hub = FakeHub(tmp_path / "hub")
    try:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        text = run("pull", "me/shakespeare")
    finally:
        hub.stop()
    assert "safetensors, 6 layers, width 224, 1,024 tokens" in text
    (snapshot,) = (cache / "models--me--shakespeare" / "snapshots").iterdir()
    names = {path.name for path in snapshot.iterdir()}
    assert {"config.json", "model.safetensors"} < names and "rust_model.ot" not in names
    assert "me/shakespeare" in run("models")


def test_pull_of_a_bundled_model_has_nothing_to_do():
    refused = CliRunner().invoke(app, ["pull", "shakespeare-tiny"])
    assert "already on this machine" in str(refused.exception)
