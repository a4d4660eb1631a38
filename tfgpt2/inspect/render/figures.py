"""Figures of attention maps, surprise and the logit lens, drawn with matplotlib."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Patch

from tfgpt2.inspect.ranks import BUCKETS, COLORS, bucket, layer_names
from tfgpt2.inspect.tokens import label

FONT = "DejaVu Sans"  # comes with matplotlib
_LONGEST = 12  # characters of a token that are shown
_BARS, _CELLS = 40, 14  # tokens per line
_LARGEST_MAP = 64  # pixels of one map in the grid
_PLAIN = {"fontfamily": FONT, "parse_math": False}  # a dollar sign does not begin a formula


def attention_grid(weights: Sequence[np.ndarray]) -> Figure:
    """All attention maps: a row for each layer (`[N, T, T]`), a column for each head."""
    shown = [[_shrunk(head) for head in layer] for layer in weights]
    size, gap = len(shown[0][0]), max(1, len(shown[0][0]) // 12)
    rows, columns = len(shown), max(len(layer) for layer in shown)
    step = size + gap
    canvas = np.full((rows * step - gap, columns * step - gap), np.nan, np.float32)
    for i, layer in enumerate(shown):
        for j, head in enumerate(layer):
            canvas[i * step : i * step + size, j * step : j * step + size] = head
    figure = Figure((1.3 + 0.9 * columns, 0.9 + 0.9 * rows), layout="constrained")
    axes = figure.add_subplot()
    # Most weights are small: a logarithmic scale shows them beside the large ones.
    image = axes.imshow(canvas, cmap="magma_r", norm=LogNorm(1e-3, 1), interpolation="nearest")
    axes.set_xticks([j * step + size / 2 for j in range(columns)], range(columns))
    axes.set_yticks([i * step + size / 2 for i in range(rows)], range(rows))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{weights[0].shape[-1]} tokens: rows attend to columns", fontsize=10)
    figure.colorbar(image, ax=axes, label="weight", shrink=0.6, extend="min")
    return figure


def attention_head(tokens: Sequence[bytes], weights: np.ndarray, title: str) -> Figure:
    """One attention map `[T, T]`, labelled with its tokens."""
    count = len(weights)
    side = 2.2 + min(0.24 * count, 40)
    figure = Figure((side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    causal = np.where(np.tri(count, dtype=bool), weights, np.nan)
    image = axes.imshow(causal, cmap="magma_r", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    names = [_drawable(token) for token in tokens]
    size = 8 if count < 160 else 4
    axes.set_xticks(range(count), names, rotation=90, fontsize=size, **_PLAIN)
    axes.set_yticks(range(count), names, fontsize=size, **_PLAIN)
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="weight", shrink=0.7)
    return figure


def surprise(tokens: Sequence[bytes], logprobs: np.ndarray, ranks: np.ndarray) -> Figure:
    """A bar for each token, as high as its surprise in bits, coloured by its rank."""
    columns = min(len(tokens), _BARS)
    lines = _lines(len(tokens), _BARS)
    figure = Figure((1.2 + 0.25 * max(columns, 12), 0.6 + 2.0 * len(lines)), layout="constrained")
    bits = -logprobs / np.log(2)
    top = max(1.0, float(bits.max()) * 1.05)
    for part, axes in zip(lines, _subplots(figure, lines), strict=True):
        places = range(part.stop - part.start)
        colors = [COLORS[bucket(int(rank))] for rank in ranks[part]]
        axes.bar(places, bits[part], color=colors, width=0.8)
        names = [_drawable(token) for token in tokens[part]]
        axes.set_xticks(places, names, rotation=90, fontsize=8, **_PLAIN)
        axes.set_xlim(-0.6, columns - 0.4)
        axes.set_ylim(0, top)
        axes.set_ylabel("bits")
        axes.spines[["top", "right"]].set_visible(False)
    patches = [Patch(color=color, label=name) for color, name in zip(COLORS, BUCKETS, strict=True)]
    figure.legend(
        handles=patches, loc="outside upper right", ncols=4 if columns > 20 else 2, fontsize=8,
        frameon=False, title="rank of the token", title_fontsize=8,
    )  # fmt: skip
    return figure


def lens(
    tokens: Sequence[bytes],
    best: Sequence[Sequence[bytes]],
    probabilities: np.ndarray,
    correct: np.ndarray,
) -> Figure:
    """A cell for each layer and token: the likeliest next token, shaded by its probability.

    Args:
        tokens: The `T` tokens of the text.
        best: For each of the `L + 1` layers the likeliest next tokens.
        probabilities: float32 `[L + 1, T]`, theirs.
        correct: bool `[L + 1, T - 1]`, whether they follow in the text.
    """
    layers, count = probabilities.shape
    lines, columns = _lines(count, _CELLS), min(count, _CELLS)
    size = (1.8 + 0.85 * columns, len(lines) * (1.0 + 0.28 * layers))
    figure = Figure(size, layout="constrained")
    subplots = _subplots(figure, lines)
    for part, axes in zip(lines, subplots, strict=True):
        # The last layer is at the top.
        image = axes.imshow(probabilities[::-1, part], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row in range(layers):
            for column in range(part.start, part.stop):
                dark = probabilities[row, column] > 0.6
                bold = column + 1 < count and correct[row, column]
                axes.text(
                    column - part.start, layers - 1 - row, _drawable(best[row][column]),
                    ha="center", va="center", fontsize=7.5, color="white" if dark else "black",
                    fontweight="bold" if bold else "normal", **_PLAIN,
                )  # fmt: skip
        names = [_drawable(token) for token in tokens[part]]
        axes.set_xticks(range(part.stop - part.start), names, fontsize=8, **_PLAIN)
        axes.set_yticks(range(layers), layer_names(layers)[::-1], fontsize=8)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    subplots[0].set_title("likeliest next token by layer; bold: as in the text", fontsize=10)
    figure.colorbar(image, ax=subplots, label="probability", shrink=0.8)
    return figure


def _lines(count: int, most: int) -> list[slice]:
    """Cuts `count` tokens into lines of at most `most`."""
    return [slice(start, min(count, start + most)) for start in range(0, count, most)]


def _subplots(figure: Figure, lines: list[slice]) -> list[Axes]:
    """One subplot for each line."""
    return list(np.atleast_1d(figure.subplots(len(lines))).reshape(-1))


def _shrunk(weights: np.ndarray) -> np.ndarray:
    """A map `[T, T]` max-pooled to a side of at most `_LARGEST_MAP` pixels."""
    count = len(weights)
    block = -(-count // _LARGEST_MAP)
    side = -(-count // block)
    padded = np.full((side * block, side * block), np.nan, np.float32)
    padded[:count, :count] = np.where(np.tri(count, dtype=bool), weights, np.nan)
    blocks = padded.reshape(side, block, side, block)
    # Weights below the scale get its first colour; the upper triangle stays empty.
    largest = np.max(np.nan_to_num(blocks, nan=-1.0), axis=(1, 3))  # [side, side]
    return np.where(largest < 0, np.nan, np.maximum(largest, 1e-3))


def _drawable(token: bytes) -> str:
    """A token in characters that the font has, truncated when long."""
    shown = ""
    for character in label(token):
        shown += character if character in _glyphs() else f"\\u{ord(character):04x}"
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}\u2026"


@functools.lru_cache(maxsize=1)
def _glyphs() -> frozenset[str]:
    """The characters that the font has."""
    return frozenset(map(chr, get_font(findfont(FONT)).get_charmap()))
