"""A local web server that replaces the Hugging Face hub for downloads."""

import hashlib
import http.server
import threading
from pathlib import Path
from urllib.parse import unquote

COMMIT = "a" * 40


class FakeHub(http.server.ThreadingHTTPServer):
    """Serves `repositories/OWNER/NAME/FILE` and records the requests.

    Repositories called `private` and `gated` need the token `hf_right`. There is one commit, with
    the names `main` and `v1` and its hash.
    """

    def __init__(self, repositories: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.requests: list[tuple[str, str, str | None]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        token = self.headers.get("authorization")
        path = unquote(self.path.partition("?")[0])
        self.server.requests.append((self.command, path, token))
        owner_and_name, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, filename = rest.partition("/")
        repository = self.server.repositories / owner_and_name
        right = token == "Bearer hf_right"
        if owner_and_name.endswith("broken"):
            return self._send(500, "")
        if not repository.is_dir() or (owner_and_name.endswith("private") and not right):
            return self._send(401, "RepoNotFound")
        if owner_and_name.endswith("gated") and not right:
            return self._send(403 if token else 401, "GatedRepo")
        if revision not in ("main", "v1", COMMIT):
            return self._send(404, "RevisionNotFound")
        file = repository / filename
        if not file.is_file():
            return self._send(404, "EntryNotFound")
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self._send(200, "", content, headers, body)

    def _send(self, status, code, content=b"", headers=None, body=True):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)
