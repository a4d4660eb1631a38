"""SavedModels: export, a local server, and a client.

`Client` and its exceptions import neither TensorFlow nor Keras.
"""

from __future__ import annotations

import importlib

_EXCEPTIONS = ("BadAnswer", "ClientError", "DeadlineExceeded", "InvalidRequest", "ModelNotFound",
               "ServerBusy", "ServerFault", "Unauthorized", "Unreachable")  # fmt: skip
_PUBLIC = dict.fromkeys(_EXCEPTIONS, "tfgpt2.serving.client.exceptions") | {
    "Client": "tfgpt2.serving.client.client",
    "Batching": "tfgpt2.serving.export.batching_options",
    "ExportReport": "tfgpt2.serving.export.report",
    "next_version": "tfgpt2.serving.export.version_directory",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tfgpt2.serving' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
