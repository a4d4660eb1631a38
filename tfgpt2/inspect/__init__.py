"""Looking inside: what a model attends to, what surprises it, and what its layers already know.

Each function returns a small record of arrays; its `save(path)` draws a PNG, which needs the extra
`inspect`, or writes an HTML page that needs nothing else.
"""

from tfgpt2.inspect.attention import AttentionMaps, attention_maps
from tfgpt2.inspect.lens import LogitLens, layer_logits, logit_lens
from tfgpt2.inspect.surprise import Surprise, surprise

__all__ = [
    "AttentionMaps",
    "LogitLens",
    "Surprise",
    "attention_maps",
    "layer_logits",
    "logit_lens",
    "surprise",
]
