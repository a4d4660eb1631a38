"""LiteRT: export of models as `.tflite` files, and generation from them without TensorFlow.

export     graph converter self_check litert_lm export    import TensorFlow
runtime    contract engine sampling generator    import NumPy, `tokenizers` and `ai-edge-litert`
"""

from __future__ import annotations

import importlib

_PUBLIC = {
    "LiteRTGenerator": "tfgpt2.litert.generator",
    "LiteRTReport": "tfgpt2.litert.publish",
    "export_litert_task": "tfgpt2.litert.export_task",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tfgpt2.litert' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
