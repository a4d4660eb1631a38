"""The records as pictures, by matplotlib."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Patch

from tfgpt2.inspect.ranks import BUCKETS, COLORS, bucket, layer_names
from tfgpt2.inspect.tokens import label

if TYPE_CHECKING:
    from tfgpt2.inspect.attention import AttentionMaps
    from tfgpt2.inspect.lens import LogitLens
    from tfgpt2.inspect.surprise import Surprise

FONT = "DejaVu Sans"  # comes with matplotlib
_LONGEST = 12  # characters of a token that are shown
_BARS, _CELLS = 40, 14  # tokens of one line
_LARGEST_MAP = 64  # pixels of one map among all maps
_PLAIN = {"fontfamily": FONT, "parse_math": False}  # a dollar sign is no formula


def attention_grid(maps: AttentionMaps) -> Figure:
    """All maps: a row for each layer, a column for each head."""
    shown = [[_shrunk(head) for head in layer] for layer in maps.weights]
    size, gap = len(shown[0][0]), max(1, len(shown[0][0]) // 12)
    rows, columns = len(shown), max(len(layer) for layer in shown)
    step = size + gap
    canvas = np.full((rows * step - gap, columns * step - gap), np.nan, np.float32)
    for i, layer in enumerate(shown):
        for j, head in enumerate(layer):
            canvas[i * step : i * step + size, j * step : j * step + size] = head
    figure = Figure((1.3 + 0.9 * columns, 0.9 + 0.9 * rows), layout="constrained")
    axes = figure.add_subplot()
    # Most weights are small: a logarithm shows them beside the large ones.
    image = axes.imshow(canvas, cmap="magma_r", norm=LogNorm(1e-3, 1), interpolation="nearest")
    axes.set_xticks([j * step + size / 2 for j in range(columns)], range(columns))
    axes.set_yticks([i * step + size / 2 for i in range(rows)], range(rows))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{len(maps.ids)} tokens: each looks (down) at those before it (across)",
                   fontsize=10)  # fmt: skip
    figure.colorbar(image, ax=axes, label="weight", shrink=0.6, extend="min")
    return figure


def attention_head(maps: AttentionMaps, layer: int, head: int) -> Figure:
    """One map with its tokens."""
    weights = maps.head(layer, head)  # [T, T]
    count = len(weights)
    side = 2.2 + min(0.24 * count, 40)
    figure = Figure((side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    seen = np.where(np.tri(count, dtype=bool), weights, np.nan)
    image = axes.imshow(seen, cmap="magma_r", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    names = [_drawable(token) for token in maps.tokens]
    size = 8 if count < 160 else 4
    axes.set_xticks(range(count), names, rotation=90, fontsize=size, **_PLAIN)
    axes.set_yticks(range(count), names, fontsize=size, **_PLAIN)
    axes.set_xlabel("is looked at")
    axes.set_ylabel("looks")
    axes.set_title(f"layer {layer}, head {head}", fontsize=10)
    figure.colorbar(image, ax=axes, label="weight", shrink=0.7)
    return figure


def surprise(found: Surprise) -> Figure:
    """A bar for each token, as high as its surprise, coloured by its rank."""
    count = len(found.ids)
    lines = -(-count // _BARS)
    wide = min(count, _BARS)
    figure = Figure((1.2 + 0.25 * max(wide, 12), 0.6 + 2.0 * lines), layout="constrained")
    bits = -found.logprobs / np.log(2)
    top = max(1.0, float(bits.max()) * 1.05)
    for line, axes in enumerate(np.atleast_1d(figure.subplots(lines)).reshape(-1)):
        part = slice(line * _BARS, min(count, (line + 1) * _BARS))
        places = range(part.stop - part.start)
        colors = [COLORS[bucket(int(rank))] for rank in found.ranks[part]]
        axes.bar(places, bits[part], color=colors, width=0.8)
        names = [_drawable(token) for token in found.tokens[part]]
        axes.set_xticks(places, names, rotation=90, fontsize=8, **_PLAIN)
        axes.set_xlim(-0.6, wide - 0.4)
        axes.set_ylim(0, top)
        axes.set_ylabel("bits")
        axes.spines[["top", "right"]].set_visible(False)
    patches = [Patch(color=color, label=name) for color, name in zip(COLORS, BUCKETS, strict=True)]
    figure.legend(
        handles=patches, loc="outside upper right", ncols=4, fontsize=8, frameon=False,
        title="rank of the token", title_fontsize=8,
    )  # fmt: skip
    return figure


def lens(found: LogitLens) -> Figure:
    """A cell for each layer and token: the likeliest next token on its probability."""
    layers, count = found.top_ids.shape[:2]
    lines, wide = -(-count // _CELLS), min(count, _CELLS)
    figure = Figure((1.8 + 0.85 * wide, lines * (1.0 + 0.28 * layers)), layout="constrained")
    every = np.atleast_1d(figure.subplots(lines)).reshape(-1)
    best = found.top_probabilities[..., 0]  # [L + 1, T]
    for line, axes in enumerate(every):
        part = slice(line * _CELLS, min(count, (line + 1) * _CELLS))
        # The last layer is on top, where a text would be written.
        image = axes.imshow(best[::-1, part], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row in range(layers):
            for column in range(part.start, part.stop):
                token = found.top_tokens[row][column][0]
                dark = best[row, column] > 0.6
                right = (
                    column + 1 < count and found.top_ids[row, column, 0] == found.ids[column + 1]
                )
                axes.text(
                    column - part.start, layers - 1 - row, _drawable(token), ha="center",
                    va="center", fontsize=7.5, color="white" if dark else "black",
                    fontweight="bold" if right else "normal", **_PLAIN,
                )  # fmt: skip
        names = [_drawable(token) for token in found.tokens[part]]
        axes.set_xticks(range(part.stop - part.start), names, fontsize=8, **_PLAIN)
        axes.set_yticks(range(layers), layer_names(layers)[::-1], fontsize=8)
        axes.set_xlim(-0.5, wide - 0.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    every[0].set_title("likeliest next token by layer; bold: the one that comes", fontsize=10)
    figure.colorbar(image, ax=list(every), label="probability", shrink=0.8)
    return figure


def _shrunk(weights: np.ndarray) -> np.ndarray:
    """A map `[T, T]` in at most `_LARGEST_MAP` pixels, each the largest weight under it."""
    count = len(weights)
    block = -(-count // _LARGEST_MAP)
    side = -(-count // block)
    padded = np.full((side * block, side * block), np.nan, np.float32)
    padded[:count, :count] = np.where(np.tri(count, dtype=bool), weights, np.nan)
    blocks = padded.reshape(side, block, side, block)
    # Below the least weight that is drawn everything is one colour; after the token there is none.
    largest = np.max(np.nan_to_num(blocks, nan=-1.0), axis=(1, 3))  # [side, side]
    return np.where(largest < 0, np.nan, np.maximum(largest, 1e-3))


def _drawable(token: bytes) -> str:
    """A token in characters that the font has, cut when long."""
    shown = ""
    for letter in label(token):
        shown += letter if letter in _letters() else f"\\u{ord(letter):04x}"
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}\u2026"


@functools.lru_cache(maxsize=1)
def _letters() -> frozenset[str]:
    """The characters that the font has."""
    return frozenset(map(chr, get_font(findfont(FONT)).get_charmap()))
