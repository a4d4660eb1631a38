"""LiteRT: export of models as `.tflite` files, and generation from them without TensorFlow.

export     converter graph signatures probe      import TensorFlow
runtime    contract engine sampling generator    import NumPy, `tokenizers` and `ai-edge-litert`
"""

from __future__ import annotations

from tfgpt2.litert.generator import LiteRTGenerator

__all__ = ["LiteRTGenerator"]
