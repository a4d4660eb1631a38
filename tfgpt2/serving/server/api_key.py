"""The API key of a request: HTTP's header, or gRPC's metadata, `authorization`."""

from __future__ import annotations

import hmac


def has_key(authorization: bytes, key: str) -> bool:
    """Whether a request has the API key, compared in constant time.

    Args:
        authorization: `Bearer KEY`; the scheme in any case, as RFC 9110, section 11.1 says, and
            with any number of spaces around the key.
        key: The API key, not empty.

    Example:
        >>> has_key(b"bearer sesame", "sesame"), has_key(b"sesame", "sesame")
        (True, False)
    """
    scheme, _, given = authorization.strip().partition(b" ")
    # An environment variable may hold bytes that are not UTF-8: the key is those bytes.
    expected = key.encode("utf-8", "surrogateescape")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), expected)
