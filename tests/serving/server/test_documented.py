"""The tables of `docs/local-server.md` name every path and every field that the server knows."""

import re
from types import SimpleNamespace

import pytest

from tests.support.paths import DOCS
from tfgpt2.serving.server import chat_request, completion_request
from tfgpt2.serving.server.app import make_app
from tfgpt2.serving.server.settings import ServerSettings

PAGE = (DOCS / "local-server.md").read_text("utf-8")


def names(section):
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    text = re.sub("```.*?```", "", text, flags=re.DOTALL)
    return {name for code in re.findall("`([^`]+)`", text) for name in re.split("[ ,:]+", code)}


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("Completions", completion_request._FIELDS),
        ("Completions", completion_request._IGNORED),
        ("Completions", completion_request._NOT_SUPPORTED),
        ("Completions", completion_request.StreamOptions._fields),
        ("Chats", chat_request._NOT_SUPPORTED),
    ],
)
def test_fields(section, fields):
    assert set(fields) - {"model"} <= names(section)


def test_paths(tmp_path):
    settings = ServerSettings(models={"m": tmp_path})
    routes = make_app(SimpleNamespace(settings=settings))._app.routes
    paths = {route.path for route in routes} - {"/{rest:path}"}
    assert len(paths) > 8 and paths <= names("Endpoints")
