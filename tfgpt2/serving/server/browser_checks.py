"""Which requests of web browsers a server without an API key answers.

Such a server trusts whoever reaches it. On a loopback address these are the programs of one
machine; but its browser also runs the pages of strangers, which can reach the server in two ways:

- Any page may post a form or a text to http://127.0.0.1:8501 without being able to read the
  answer. Browsers declare it: `Origin` names the page, `Sec-Fetch-Site` its relation to the server.
- DNS rebinding: the name of the page's own site resolves to 127.0.0.1 from some moment on, and the
  browser takes this server for that site. The `Host` header still holds the name.

So `Host` must be a name of this machine, a browser's request must come from a page of this server,
and what a browser posts must be declared as JSON, which no form can do. Other programs send neither
`Origin` nor `Sec-Fetch-Site` and may declare what they like: `curl -d`, in the examples of
TensorFlow Serving, declares a form.

With an API key nothing is checked: a page does not know it, and cannot make a browser add it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping

from tfgpt2.serving.server.serving_error import ServingError

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@\s]+)(:\d*)?")
_SAFE_METHODS = ("GET", "HEAD")  # run no model


def is_loopback(host: str) -> bool:
    """Whether an address is reachable only from this machine.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0"), is_loopback("localhost")
        (True, False, True)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class BrowserChecks:
    """Checks the headers of requests.

    Args:
        address: What the server is bound to.
        allowed_hosts: Further names by which browsers may reach it. Where there are some, or the
            address is a loopback address, `Host` is checked.
        allowed_origins: Pages of other origins that may use the server, in lower case.
    """

    def __init__(
        self, address: str, allowed_hosts: Collection[str], allowed_origins: Collection[str] = ()
    ):
        self._allowed_origins = frozenset(allowed_origins)
        self._allowed_hosts = frozenset(allowed_hosts)
        self._check_host = bool(allowed_hosts) or is_loopback(address)

    def check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Checks a request.

        Args:
            method: Its method.
            headers: Its headers, names in lower case.

        Raises:
            ServingError: PERMISSION_DENIED, or INVALID_ARGUMENT with HTTP status 415.
        """
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = _host_name(host)
        # A request without `Host` (HTTP/1.0) is not a browser's.
        if self._check_host and host and not self._is_own(name):
            raise ServingError(
                "PERMISSION_DENIED",
                f"This server does not answer requests for this host. Received: Host={host!r}."
                " Use localhost or 127.0.0.1, or start the server with --allow-host NAME.",
            )
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        site = headers.get(b"sec-fetch-site", b"").decode("latin-1").lower()
        if origin and not self._is_same_origin(origin, host):
            raise _other_origin(f"Origin={origin!r}, Host={host!r}")
        if method in _SAFE_METHODS or not (origin or site):
            return
        if not origin and site not in ("same-origin", "none"):
            raise _other_origin(f"Sec-Fetch-Site={site!r}")
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ServingError(
                "INVALID_ARGUMENT",
                "A browser must declare its request as JSON. Received: Content-Type="
                f"{kind.decode('latin-1')!r}. Send Content-Type: application/json.",
                http=415,
            )

    def _is_own(self, name: str) -> bool:
        return name in self._allowed_hosts or is_loopback(name)

    def _is_same_origin(self, origin: str, host: str) -> bool:
        # The scheme is not compared: a proxy may add TLS.
        if origin in self._allowed_origins:
            return True
        authority = origin.partition("://")[2]
        return authority == host or _host_name(authority) in self._allowed_hosts


def _other_origin(received: str) -> ServingError:
    return ServingError(
        "PERMISSION_DENIED",
        f"A page of another origin may not use this server. Received: {received}. Behind a proxy"
        " that changes Host, start the server with --allow-host and the host of the page.",
    )


def _host_name(authority: str) -> str:
    """The host of `host:port`, without brackets; empty if it is malformed."""
    match = _HOST.fullmatch(authority)
    return match[1].strip("[]") if match else ""
