"""Host, Origin and content type: what a browser may send to a server without a key."""

import pytest
from starlette.testclient import TestClient

from tfgpt2.serving.server import server_core
from tfgpt2.serving.server.app import make_app
from tfgpt2.serving.server.browser_checks import BrowserChecks
from tfgpt2.serving.server.server_core import ServerCore
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.settings import ServerSettings

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}  # what `curl -d` sends
HERE = "127.0.0.1:8501"


def status(method, headers, address="127.0.0.1", allowed=()):
    """The HTTP status of a rejection; 200 if there is none."""
    encoded = {name.lower().encode(): value.encode() for name, value in headers.items()}
    try:
        BrowserChecks(address, allowed).check(method, encoded)
    except ServingError as error:
        return error.http
    return 200


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8501", "LOCALHOST:1", "127.0.0.1", HERE, "127.0.0.9:80", "[::1]",
     "[::1]:8501"],
)  # fmt: skip
def test_names_of_this_machine(host):
    for method in ("GET", "POST"):
        assert status(method, {"Host": host}) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8501", "localhost.evil.example", "127.0.0.1.evil.example",
     "192.168.1.5:8501", "localhost@evil.example", "[::2]", "[evil.example]", "::1", "local host",
     "localhost:8501:1", ":8501", "0.0.0.0:8501"],
)  # fmt: skip
def test_other_names(host):
    for method in ("GET", "HEAD", "POST"):
        assert status(method, {"Host": host} | JSON) == 403


def test_names_are_checked_where_it_makes_sense():
    elsewhere = {"Host": "gpt2.example.org:80"}
    assert status("POST", elsewhere, "0.0.0.0") == 200  # it has names that nobody knows here
    assert status("POST", elsewhere, allowed=["gpt2.example.org"]) == 200
    assert status("POST", elsewhere, "0.0.0.0", ["gpt2.example.org"]) == 200
    assert status("POST", {"Host": "evil.example"}, "0.0.0.0", ["gpt2.example.org"]) == 403
    assert status("POST", {}) == 200  # HTTP/1.0: no browser


@pytest.mark.parametrize("kind", [{}, JSON, FORM, {"Content-Type": "text/plain"}])
def test_programs_may_declare_what_they_like(kind):
    assert status("POST", {"Host": HERE} | kind) == 200


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        # a page of this server
        ({"Origin": f"http://{HERE}", "Sec-Fetch-Site": "same-origin"} | JSON, 200),
        ({"Origin": f"https://{HERE}"} | JSON, 200),  # behind a proxy with TLS
        ({"Origin": f"http://{HERE}", "Content-Type": "Application/JSON; charset=utf-8"}, 200),
        ({"Sec-Fetch-Site": "none"} | JSON, 200),
        # other pages
        ({"Origin": "http://evil.example"} | JSON, 403),
        ({"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-site"} | JSON, 403),
        ({"Origin": "http://localhost:8501"} | JSON, 403),
        ({"Origin": "null"} | JSON, 403),  # a file, a sandboxed frame
        ({"Origin": f"http://{HERE}.evil.example"} | JSON, 403),
        ({"Sec-Fetch-Site": "cross-site"} | JSON, 403),
        ({"Sec-Fetch-Site": "same-site"} | JSON, 403),
        # forms
        ({"Origin": f"http://{HERE}"} | FORM, 415),
        ({"Origin": f"http://{HERE}"}, 415),
        ({"Sec-Fetch-Site": "same-origin", "Content-Type": "text/plain"}, 415),
        ({"Origin": f"http://{HERE}", "Content-Type": "application/jsonp"}, 415),
    ],
)
def test_posts_of_browsers(headers, expected):
    for method in ("POST", "PUT", "DELETE"):
        assert status(method, {"Host": HERE} | headers) == expected


def test_pages_may_link_to_this_server_but_not_read_it():
    link = {"Host": HERE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert status("GET", link) == 200
    assert status("GET", {"Host": HERE, "Origin": "http://evil.example"}) == 403


def test_an_allowed_host_may_be_that_of_the_page():
    """A proxy may pass its own name on as `Host`, or the address of this server."""
    for host in ("gpt2.example.org", HERE):
        page = {"Host": host, "Origin": "https://gpt2.example.org"} | JSON
        assert status("POST", page, allowed=["gpt2.example.org"]) == 200
        assert (
            status("POST", page | {"Origin": "https://x.org"}, allowed=["gpt2.example.org"]) == 403
        )


@pytest.fixture
def make_client(tmp_path, monkeypatch):
    monkeypatch.setattr(server_core.ServerCore, "lease", lambda *_: 1 / 0)  # no request gets there

    def make(**options):
        core = ServerCore(ServerSettings(models={"m": tmp_path}, **options))
        return TestClient(make_app(core), base_url=f"http://{HERE}")

    return make


@pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v1/completions", "/x"])
def test_rejected_requests_get_no_further(make_client, path):
    client = make_client()
    for headers, expected in (
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"} | JSON, 403),
        ({"Origin": f"http://{HERE}"} | FORM, 415),
    ):
        answer = client.post(path, content=b"{}", headers=headers)
        assert answer.status_code == expected
        error = answer.json()["error"]
        assert "Received: " in (error["message"] if path == "/v1/completions" else error)
        assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client.options(path, headers=preflight)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_with_a_key_nothing_is_checked(make_client):
    headers = {"Host": "x", "Origin": "http://evil.example", "Authorization": "Bearer k"}
    assert make_client(api_key="k").get("/v1/models", headers=headers).status_code == 200
    del headers["Authorization"]
    assert make_client(api_key="k").get("/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize("host", ["http://a.org", "a.org:80", "[::1]", "", "a b", "*"])
def test_allowed_hosts_are_names(tmp_path, host):
    with pytest.raises(ValueError, match="without scheme, port and brackets"):
        ServerSettings(models={"m": tmp_path}, allowed_hosts=[host])


def test_allowed_hosts_are_compared_in_lower_case(tmp_path):
    settings = ServerSettings(models={"m": tmp_path}, allowed_hosts=["GPT2.example.ORG", "::1"])
    assert settings.allowed_hosts == ("gpt2.example.org", "::1")


PAGE = "https://app.example.org"


@pytest.mark.parametrize("key", ["", "sesame"])
def test_a_page_that_is_named_may_use_the_server(make_client, key):
    client = make_client(api_key=key, allowed_origins=[PAGE.upper()])
    asks = {"Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type"}  # fmt: skip
    preflight = client.options("/v1/completions", headers={"Origin": PAGE} | asks)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    sender = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site", "Authorization": "Bearer sesame"}
    answer = client.get("/v1/models", headers=sender)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    answer = client.post("/v1/completions", content="{}", headers=sender | JSON)
    assert answer.status_code == 400 and answer.headers["access-control-allow-origin"] == PAGE
    other = sender | {"Origin": "https://evil.example"}
    answer = client.post("/v1/completions", content="{}", headers=other | JSON)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.status_code == (400 if key else 403)  # a page cannot know the key
    preflight = client.options("/v1/completions", headers={"Origin": "https://evil.example"} | asks)
    assert "access-control-allow-origin" not in preflight.headers
    if not key:
        assert (
            client.post("/v1/completions", content="{}", headers=sender | FORM).status_code == 415
        )


@pytest.mark.parametrize(
    "origin", ["*", "app.example.org", "https://a b", "https://*.example.org", ""]
)
def test_allowed_origins_are_origins(tmp_path, origin):
    with pytest.raises(ValueError, match="`allowed_origins` must be schemes"):
        ServerSettings(models={"m": tmp_path}, allowed_origins=[origin])
