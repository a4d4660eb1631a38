"""The SavedModel and its uses: signatures, export, a local server, a client.

`Client` and what belongs to it import neither TensorFlow nor Keras.
"""

from __future__ import annotations

import importlib

_CLIENT = ("BadAnswer", "Client", "ClientError", "DeadlineExceeded", "InvalidRequest",
           "ModelNotFound", "ServerBusy", "ServerFault", "Unauthorized", "Unreachable")  # fmt: skip
_PUBLIC = dict.fromkeys(_CLIENT, "tfgpt2.serving.client") | {
    "Batching": "tfgpt2.serving.export.batching",
    "ExportReport": "tfgpt2.serving.export.report",
    "next_version": "tfgpt2.serving.export.export",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tfgpt2.serving' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
