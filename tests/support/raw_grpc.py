"""A gRPC client on a bare socket that lets the server wait."""

import asyncio

_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6  # HTTP/2 frames
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1


def _frame(kind, flags, stream, payload=b""):
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def _call(method, message):
    fields = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost",
              "content-type": "application/grpc", "te": "trailers"}  # fmt: skip
    block = b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in field)
        for field in fields.items()
    )
    data = b"\0" + len(message).to_bytes(4, "big") + message
    return _frame(_HEADERS, _END_HEADERS, 1, block) + _frame(_DATA, _END_STREAM, 1, data)


async def call_without_reading(port, method, message, *, answer_pings):
    """Calls a method and makes no room for the response; returns when the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0))
    writer.write(_call(method, message))
    try:
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == _SETTINGS and head[4] != _ACK:
                writer.write(_frame(_SETTINGS, _ACK, 0))
            elif head[3] == _PING and head[4] != _ACK and answer_pings:
                writer.write(_frame(_PING, _ACK, 0, payload))
    except (asyncio.IncompleteReadError, ConnectionResetError):
        writer.close()
