"""Models from the hub, which a local server replaces; each program runs in its own process.

`huggingface_hub` reads HF_ENDPOINT, HF_HUB_OFFLINE and its cache directory when it is imported.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.support.checkpoint_loading import make_checkpoint
from tests.support.hub_server import COMMIT, FakeHub
from tfgpt2 import TFGPT2LMHeadModel
from tfgpt2.hub import check_name

# Loads what each line of its input requests; prints the result or the error of each as JSON.
PROGRAM = """
import json, sys, time
slept = []
time.sleep = slept.append  # the library waits between attempts
from tfgpt2.hub import HubOptions, Repository
from tfgpt2.checkpoints.readers.safetensors import SafetensorsReader
from tfgpt2.config import GPT2Config

def load(name, want="layers", file=None, **options):
    if want == "slept":
        return sum(slept)
    if want == "layers":
        return GPT2Config.from_pretrained(name, **options).n_layer
    if want == "model":
        from tfgpt2 import TFGPT2LMHeadModel
        model = TFGPT2LMHeadModel.from_pretrained(name, **options)
        return float(model([[1, 2, 3]]).logits[0, 0, 0])
    files = Repository(name, HubOptions(**options))
    if want == "tensors":  # requests the files of a model without importing TensorFlow
        files.require("config.json")
        return len(SafetensorsReader.from_files(files.find).keys())
    path = files.find(file)
    return path and path.name

for line in sys.stdin:
    try:
        print(json.dumps({"value": load(**json.loads(line))}))
    except Exception as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}))
"""


@pytest.fixture
def checkpoint(tmp_path):
    """The directory of a small random checkpoint."""
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def hub(tmp_path, checkpoint):
    """A server with repositories of every kind."""
    repositories = tmp_path / "repositories"
    for name in ("me/tiny", "me/private", "me/gated", "me/inner/sub"):
        shutil.copytree(checkpoint, repositories / name)
    TFGPT2LMHeadModel.from_pretrained(checkpoint).save_pretrained(
        repositories / "me" / "sharded", max_shard_size=6000
    )
    server = FakeHub(repositories)
    yield server
    server.stop()


@pytest.fixture
def expected(checkpoint):
    return float(TFGPT2LMHeadModel.from_pretrained(checkpoint)([[1, 2, 3]]).logits[0, 0, 0])


@pytest.fixture
def ask(tmp_path):
    """Returns a function that runs the program on requests, with the hub at a given address."""

    def run(url, *requests, **environment):
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k
        }
        clean |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        clean |= {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_DISABLE_TELEMETRY": "1"} | environment
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input="\n".join(json.dumps(request) for request in requests),
            capture_output=True,
            text=True,
            env=clean,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


TINY = {"name": "me/tiny", "want": "tensors"}
SHARDED = {"name": "me/sharded", "want": "tensors"}
ABSENT = {"name": "me/tiny", "want": "path", "file": "generation_config.json"}
PRESENT = ABSENT | {"file": "config.json"}
ALL = (TINY, SHARDED, ABSENT, PRESENT)
ANSWERS = [{"value": 28}, {"value": 28}, {"value": None}, {"value": "config.json"}]


@pytest.mark.long
def test_models(hub, ask, expected):
    models = [{"name": name, "want": "model"} for name in ("me/tiny", "me/sharded")]
    for answer in ask(hub.url, *models):
        assert answer.get("value") == pytest.approx(expected, abs=1e-6), answer


def test_download_cache_and_offline(hub, ask):
    assert ask(hub.url, *ALL) == ANSWERS
    downloads = [path for method, path, _ in hub.requests if method == "GET"]
    assert f"/me/tiny/resolve/{COMMIT}/model.safetensors" in downloads
    assert ask(hub.url, *ALL) == ANSWERS
    assert [path for method, path, _ in hub.requests if method == "GET"] == downloads
    seen = len(hub.requests)
    assert ask(hub.url, *ALL, HF_HUB_OFFLINE="1") == ANSWERS
    assert ask(hub.url, *[request | {"local_files_only": True} for request in ALL]) == ANSWERS
    by_hash = [request | {"revision": COMMIT} for request in ALL]
    assert ask(hub.url, *by_hash, HF_HUB_OFFLINE="1") == ANSWERS
    assert len(hub.requests) == seen
    # Without the server, the cache is used.
    hub.stop()
    assert ask(hub.url, *ALL) == ANSWERS
    (unknown,) = ask(hub.url, {"name": "me/private", "token": "hf_right"})
    assert unknown["error"] == "ConnectionError"
    assert (
        "'config.json' is not in the local cache and the hub could not be reached."
        in (unknown["text"])
    )
    assert "Received: name='me/private', revision=None. Check the network" in unknown["text"]
    known = {"name": "openai-comunity/gpt2"}
    unknown, slept = ask(hub.url, known, {"name": "", "want": "slept"})
    assert "Did you mean 'openai-community/gpt2'?" in unknown["text"]
    assert slept == {"value": 0}, "an unreachable hub is not tried again"


def test_a_snapshot_of_another_program(hub, ask, tmp_path):
    """Offline, without the cache's marks for absent files, as `hf download` leaves it."""
    ask(hub.url, TINY, SHARDED)
    for marks in (tmp_path / "home").rglob(".no_exist"):
        shutil.rmtree(marks)
    assert ask(hub.url, *ALL, HF_HUB_OFFLINE="1") == ANSWERS


def test_offline_without_a_cache(hub, ask):
    answers = ask(hub.url, TINY, ABSENT, HF_HUB_OFFLINE="1")
    answers += ask(hub.url, TINY | {"local_files_only": True})
    for answer in answers:
        assert answer["error"] == "ConnectionError", answer
        assert "Check the network, HF_ENDPOINT, HF_HUB_OFFLINE" in answer["text"]
    assert not hub.requests


def test_revisions_tokens_and_refusals(hub, ask):
    private, gated = {"name": "me/private"}, {"name": "me/gated"}
    answers = ask(
        hub.url,
        {"name": "me/tiny", "revision": "v1"},
        {"name": "me/tiny", "revision": COMMIT},
        {"name": "me/tiny", "revision": "v2"},
        private | {"token": "hf_right"},
        gated | {"token": "hf_right"},
        private | {"token": "hf_wrong", "force_download": True},
        gated | {"token": "hf_wrong", "cache_dir": "elsewhere"},
        {"name": "me/absent"},
        {"name": "me/inner", "subfolder": "sub"},
        {"name": "me/inner"},
        {"name": "not a hub name"},
        {"name": "a/b/c"},
        {"name": "me/broken"},
    )
    values = [answer.get("value", answer.get("error")) for answer in answers]
    assert values == [
        2, 2, "FileNotFoundError", 2, 2, "FileNotFoundError", "PermissionError",
        "FileNotFoundError", 2, "FileNotFoundError", "FileNotFoundError", "FileNotFoundError",
        "ConnectionError",
    ]  # fmt: skip
    text = [answer.get("text", "") for answer in answers]
    assert (
        "not have this revision. Received: name='me/tiny', revision='v2'. Name an exist" in text[2]
    )
    assert "No local directory, bundled model or hub repository has this name." in text[5]
    assert "needs `token=` or HF_TOKEN" in text[5] and "needs `token=`" in text[7]
    assert (
        "is gated and the token does not grant access. Received: name='me/gated'. Request"
        in text[6]
    )
    assert "has no file 'config.json'. Received: name='me/inner', subfolder=''" in text[9]
    assert "No local directory" in text[10] and "No local directory" in text[11]
    sent = {token for _, path, token in hub.requests if "/me/private/" in path}
    assert sent == {"Bearer hf_right", "Bearer hf_wrong"}
    assert {token for _, path, token in hub.requests if "/me/tiny/" in path} == {None}


def test_one_commit_for_all_files(hub, ask):
    """After the first file, the others are requested by its commit, whatever `main` is by then."""
    ask(hub.url, TINY)
    revisions = [path.split("/resolve/")[1].split("/")[0] for _, path, _ in hub.requests]
    # Asked whether the hub answers, the file's metadata, the file, which comes by its commit.
    assert revisions[:2] == ["main"] * 2 and set(revisions[3:]) == {COMMIT}


def test_token_from_the_environment(hub, ask):
    (answer,) = ask(hub.url, {"name": "me/private"}, HF_TOKEN="hf_right")
    assert answer == {"value": 2}
    (answer,) = ask(hub.url, {"name": "me/private", "token": False}, HF_TOKEN="hf_right")
    assert answer.get("error") in (None, "FileNotFoundError")


@pytest.mark.long
def test_another_cache(hub, ask, tmp_path):
    place = str(tmp_path / "my cache")
    assert ask(hub.url, TINY | {"cache_dir": place})[0].get("value")
    assert (tmp_path / "my cache" / "models--me--tiny").is_dir()
    assert not (tmp_path / "home" / "hub" / "models--me--tiny").exists()
    offline = TINY | {"cache_dir": place, "local_files_only": True}
    assert ask(hub.url, offline)[0].get("value")
    assert ask(hub.url, {**ABSENT, "cache_dir": place, "local_files_only": True}) == [
        {"value": None}
    ]
    assert ask(hub.url, TINY | {"local_files_only": True})[0]["error"] == "ConnectionError"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("shakespear-tiny", "shakespeare-tiny"), ("gpt-2", "gpt2"), ("gpt2-meduim", "gpt2-medium"),
     ("my-finetne", "my-finetune")],
)  # fmt: skip
def test_a_misspelt_name_is_not_sent_to_the_hub(tmp_path, name, meant):
    (tmp_path / "models--my-finetune").mkdir()
    with pytest.raises(FileNotFoundError, match=f"Did you mean '{meant}'"):
        check_name(name, tmp_path)


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt2-xl", "gpt2-small", "me/shakespear-tiny", "shakespeare-tiny", "other"]
)
def test_other_names_are_left_to_the_hub(tmp_path, name):
    check_name(name, tmp_path)


def test_a_directory_may_be_called_like_a_misspelt_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shakespear-tiny").mkdir()
    check_name("shakespear-tiny", tmp_path)
