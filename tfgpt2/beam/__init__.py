"""Apache Beam: texts of a pipeline generated, scored, embedded and classified.

Needs `pip install 'tfgpt2[beam]'`.
"""

from __future__ import annotations

import importlib

_PUBLIC = {
    "ClassifyText": "tfgpt2.beam.transforms",
    "EmbedText": "tfgpt2.beam.transforms",
    "GenerateText": "tfgpt2.beam.transforms",
    "ScoreText": "tfgpt2.beam.transforms",
    "TextModelHandler": "tfgpt2.beam.handler",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tfgpt2.beam' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
