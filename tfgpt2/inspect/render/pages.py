"""Self-contained HTML pages of attention maps, surprise and the logit lens."""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from tfgpt2.errors import value_error
from tfgpt2.inspect.ranks import BUCKETS, COLORS, bucket, layer_names
from tfgpt2.inspect.tokens import label, printable

_LARGEST = 48 * 2**20  # bytes of weights in a page
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
<h1>{title}</h1>
{body}
</html>
"""


def attention(
    tokens: Sequence[bytes], weights: Sequence[np.ndarray], chosen: tuple[int, int]
) -> str:
    """All attention maps, one of them enlarged; pointing at a token shows what it attends to.

    Args:
        tokens: The `T` tokens of the text.
        weights: For each layer float32 `[N, T, T]`.
        chosen: Layer and head of the enlarged map.

    Raises:
        ValueError: The page would be too large.
    """
    count = len(tokens)
    size = sum(len(layer) for layer in weights) * count * (count + 1) // 2
    if size > _LARGEST:
        raise value_error(
            f"The page would hold more than {_LARGEST} weights.",
            fix="Save a .png, or use a shorter text.",
            tokens=count,
            weights=size,
        )
    lower = np.tril_indices(count)
    data = {
        "tokens": [label(token) for token in tokens],
        # The lower triangle row by row, one byte for each weight.
        "layers": [[_bytes(head[lower]) for head in layer] for layer in weights],
        "chosen": list(chosen),
    }
    body = (
        "<p>Point at a token: the darker another token, the more the first attends to it. Each"
        " small map is one head; click to enlarge it. Rows attend to columns.</p>\n"
        '<div id="text" class="text"></div>\n<p id="where" class="note">&nbsp;</p>\n'
        '<div class="side"><canvas id="map"></canvas><div id="heads"></div></div>\n'
        f'<script type="application/json" id="data">{_json(data)}</script>\n'
        f"<script>\n{_file('attention.js')}</script>"
    )
    return _page("Attention", body)


class TokenCard(NamedTuple):
    """A token of a text with its likeliest alternatives.

    Attributes:
        token: Its bytes.
        rank: From 1; 0 for a first token, which has no context.
        probability: Of the token.
        top_tokens: Bytes of the likeliest tokens, best first.
        top_probabilities: Theirs.
    """

    token: bytes
    rank: int
    probability: float
    top_tokens: Sequence[bytes]
    top_probabilities: Sequence[float]


def surprise(cards: Sequence[TokenCard], logprob: float) -> str:
    """A text whose tokens are coloured by rank; pointing at one shows its alternatives.

    Args:
        cards: One for each token.
        logprob: Log-probability of the text in nats.
    """
    legend = " ".join(
        f'<span class="key" style="background:{color}">rank {name}</span>'
        for color, name in zip(COLORS, BUCKETS, strict=True)
    )
    scored = sum(card.rank > 0 for card in cards)
    total = -logprob / np.log(2)
    body = (
        f'<p>{legend}</p>\n<p class="note">{scored} tokens scored, {total:.1f} bits in total'
        + (f", {total / scored:.2f} per token." if scored else ".")
        + ' Point at a token for its likeliest alternatives.</p>\n<div class="text">'
        + "".join(map(_token_span, cards))
        + "</div>"
    )
    return _page("Surprise", body)


def lens(tokens: Sequence[bytes], layers: Sequence[tuple[Any, ...]]) -> str:
    """A table of the likeliest next tokens, the last layer first.

    Args:
        tokens: The `T` tokens of the text.
        layers: For each layer its likeliest tokens `[T][N]`, their probabilities `[T][N]`, and the
            rank and probability `[T - 1]` of the token that follows.
    """
    head = "".join(f"<th><bdi>{escape(label(token))}</bdi></th>" for token in tokens)
    names = layer_names(len(layers))
    rows = []
    for name, (top_tokens, probabilities, *following) in reversed(
        list(zip(names, layers, strict=True))
    ):
        actual = [*zip(tokens[1:], *following, strict=True), None]
        cells = map(_lens_cell, top_tokens, probabilities, actual)
        rows.append(f"<tr><th>{name}</th>{''.join(cells)}</tr>")
    body = (
        "<p>The likeliest next token after each token of the text (top), as if each layer (left)"
        " were the last. Darker is likelier; a frame marks the token that follows in the text.</p>"
        f'\n<div class="scroll"><table><tr><th></th>{head}</tr>\n'
        + "\n".join(rows)
        + "</table></div>"
    )
    return _page("Logit lens", body)


def _token_span(card: TokenCard) -> str:
    """One token of the text with its card."""
    shown = escape(_inline(card.token))
    if not card.rank:
        return f'<span class="token first" title="no context"><bdi>{shown}</bdi></span>'
    alternatives = "".join(
        f"<tr><td>“<bdi>{escape(label(other))}</bdi>”</td><td>{probability:.1%}</td></tr>"
        for other, probability in zip(card.top_tokens, card.top_probabilities, strict=True)
    )
    details = (
        f'<span class="card"><b>“<bdi>{escape(label(card.token))}</bdi>”</b> rank {card.rank:,},'
        f" {_percent(card.probability)}<table>{alternatives}</table></span>"
    )
    return (
        f'<span class="token" tabindex="0" style="background:{COLORS[bucket(card.rank)]}">'
        f"<bdi>{shown}</bdi>{details}</span>"
    )


def _lens_cell(
    top_tokens: Sequence[bytes],
    probabilities: Sequence[float],
    following: tuple[bytes, int, float] | None,
) -> str:
    """A cell of the table; `following` is the token that follows, its rank and probability."""
    names = [label(token) for token in top_tokens]
    pairs = zip(names, probabilities, strict=True)
    lines = [f"“{name}”  {_percent(probability)}" for name, probability in pairs]
    correct = ""
    if following is not None:
        token, rank, probability = following
        lines.append(f"next: “{label(token)}”  rank {rank:,}, {_percent(probability)}")
        correct = " class=right" if rank == 1 else ""
    dark = ";color:#fff" if probabilities[0] > 0.6 else ""
    title = escape("\n".join(lines))
    return (
        f'<td{correct} style="background:rgba(8,69,148,{probabilities[0]:.2f}){dark}"'
        f' title="{title}"><bdi>{escape(names[0])}</bdi></td>'
    )


def _inline(token: bytes) -> str:
    """A token within running text: spaces stay, and line breaks are shown and kept."""
    text = token.decode("utf-8", "backslashreplace")
    kept = {" ": " ", "\n": "\u21b5\n", "\t": "\t"}
    return "".join(kept.get(character) or printable(character) for character in text)


def _percent(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else f"{probability:.1e}"


def _bytes(weights: np.ndarray) -> str:
    return base64.b64encode(np.rint(weights * 255).astype(np.uint8).tobytes()).decode("ascii")


def _json(data: object) -> str:
    """JSON that cannot end the script element that holds it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _page(title: str, body: str) -> str:
    return _PAGE.format(title=title, style=_file("style.css"), body=body)


def _file(name: str) -> str:
    return (importlib.resources.files("tfgpt2.inspect.render") / "page" / name).read_text("utf-8")
