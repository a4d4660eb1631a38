"""Pages of other sites in a real browser cannot use the server; the playground can."""

import http.server
import json
import threading
import time

import pytest
import uvicorn

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from tests.support.browser import chromium  # noqa: E402
from tests.support.fake_text_servable import FakeTextServable  # noqa: E402
from tfgpt2.serving.server import server_core  # noqa: E402
from tfgpt2.serving.server.app import make_app  # noqa: E402
from tfgpt2.serving.server.settings import ServerSettings  # noqa: E402
from tfgpt2.serving.server.version_manager import VersionManager  # noqa: E402

PREDICT = {
    "signature_name": "generate",
    "inputs": {"text": ["a"], "max_new_tokens": [4], "temperature": [1]},
}
COMPLETE = {"model": "m", "prompt": "a", "max_tokens": 4}
# Sends a body in each way that a page has, and says how that ended.
ATTACK = """
const [server, body, path, done] = arguments;
const send = (mode, type) => fetch(server + path, {
  method: "POST", mode, body, headers: {"Content-Type": type}
}).then(answer => answer.type + answer.status, () => "failed");
(async () => {
  const ends = [];
  for (const mode of ["no-cors", "cors"])
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/json"])
      ends.push(await send(mode, type));
  ends.push(navigator.sendBeacon(server + path, new Blob([body], {type: "text/plain"})));
  const frame = document.createElement("iframe");
  frame.name = "target";
  document.body.append(frame);
  const form = document.createElement("form");
  const field = document.createElement("input");
  // As text/plain a form can send JSON: the name, '=' and the value.
  field.name = body.slice(0, -1) + ', "x';
  field.value = '": 1}';
  Object.assign(form, {method: "POST", action: server + path, enctype: "text/plain"});
  form.target = "target";
  form.append(field);
  document.body.append(form);
  frame.onload = () => done(ends);
  form.submit();
})();
"""


class Server:
    """The application with a fake model, in a thread."""

    def __init__(self, folder, monkeypatch):
        (folder / "1").mkdir()
        (folder / "1" / "saved_model.pb").touch()
        self.servable = FakeTextServable()
        monkeypatch.setattr(
            server_core,
            "VersionManager",
            lambda *arguments, **_: VersionManager(*arguments, load=lambda *_: self.servable),
        )
        self.core = server_core.ServerCore(ServerSettings(models={"m": folder}))
        config = uvicorn.Config(
            self.app, port=0, log_level="error", lifespan="off", interface="asgi3"
        )
        self._app = make_app(self.core)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._started, self.requests = False, []

    async def app(self, scope, receive, send):
        if not self._started:
            self._started = True
            await self.core.models.start()
        self.requests.append((scope["method"], scope["path"]))
        await self._app(scope, receive, send)

    def __enter__(self):
        self._thread.start()
        end = time.monotonic() + 20
        while not self._server.started and time.monotonic() < end:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *error):
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)


@pytest.fixture
def server(tmp_path, monkeypatch):
    with Server(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    rebinding = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    with chromium(tmp_path_factory.mktemp("chromium"), rebinding) as driver:
        driver.set_script_timeout(30)
        yield driver


@pytest.fixture(scope="module")
def strange_page():
    """The port of a site with an empty page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802  (the name of the base class)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><body>")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        thread = threading.Thread(target=site.serve_forever, daemon=True)
        thread.start()
        yield site.server_address[1]
        site.shutdown()


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/models/m:predict", PREDICT), ("/v1/completions", COMPLETE)]
)
@pytest.mark.parametrize("name", ["127.0.0.1", "evil.example"])
def test_a_page_of_another_origin_runs_no_model(chrome, server, strange_page, name, path, body):
    chrome.get(f"http://{name}:{strange_page}/")
    body = json.dumps(body)
    ends = chrome.execute_async_script(ATTACK, f"http://127.0.0.1:{server.port}", body, path)
    # Blind requests are answered, but nobody may see how; the others fail.
    assert ends == ["opaque0"] * 2 + ["opaque0"] + ["failed"] * 3 + [True]
    assert server.requests.count(("POST", path)) >= 5  # they did arrive
    assert server.servable.calls == []


def test_dns_rebinding(chrome, server):
    """The name of the strange site is now that of the server: to the browser it is one origin."""
    chrome.get(f"http://evil.example:{server.port}/")
    assert "does not answer requests for this host" in chrome.page_source
    done = "arguments[2](fetch(arguments[0], {method: 'POST', body: arguments[1],"
    done += " headers: {'Content-Type': 'application/json'}}).then(r => r.status))"
    answer = chrome.execute_async_script(done, "/v1/completions", json.dumps(COMPLETE))
    assert answer == 403 and server.servable.calls == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_playground_works(chrome, server, name):
    chrome.get(f"http://{name}:{server.port}/")
    wait = WebDriverWait(chrome, 20, 0.05)
    wait.until(lambda _: chrome.find_element(By.ID, "suggest").is_enabled())
    chrome.find_element(By.ID, "text").send_keys("To be", Keys.TAB)
    wait.until(lambda _: chrome.find_elements(By.CSS_SELECTOR, "#options li"))
    assert "generate" in server.servable.calls
