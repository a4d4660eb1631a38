"""Requests to an ASGI application in the event loop of the test, byte by byte."""

import asyncio
from urllib.parse import unquote

import httpx


async def send_request(app, method, path, body=b"", headers=()):
    """Sends a request whose path and body may be any bytes.

    Returns:
        The response, as httpx's; an exception of the application that it answered is not raised.
    """
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(path.split(b"?")[0].decode("latin-1")),
        "raw_path": path,
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), *headers],
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8501),
    }
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent = []

    async def receive():
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # the client stays connected

    async def send(message):
        sent.append(message)

    try:
        await app(scope, receive, send)
    except Exception:
        if not sent:
            raise
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=content)
