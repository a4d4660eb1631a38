"""Model inspection: attention maps, the surprise of each token, and the logit lens.

Each function returns a record of arrays. Its `save(path)` draws a PNG, which needs the extra
`inspect`, or writes a self-contained HTML page.
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
