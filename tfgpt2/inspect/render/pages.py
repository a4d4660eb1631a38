"""The records as pages of HTML that need nothing from elsewhere."""

from __future__ import annotations

import base64
import importlib.resources
import json
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from tfgpt2.errors import explain
from tfgpt2.inspect.ranks import BUCKETS, COLORS, bucket, layer_names
from tfgpt2.inspect.tokens import label, printable

if TYPE_CHECKING:
    from tfgpt2.inspect.attention import AttentionMaps
    from tfgpt2.inspect.lens import LogitLens
    from tfgpt2.inspect.surprise import Surprise

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


def attention(maps: AttentionMaps, chosen: tuple[int, int]) -> str:
    """All maps, of which one is large; pointing at a token shows what it looks at.

    Raises:
        ValueError: The page would be too large.
    """
    count = len(maps.ids)
    size = sum(len(layer) for layer in maps.weights) * count * (count + 1) // 2
    if size > _LARGEST:
        raise ValueError(
            explain(
                f"The page would hold more than {_LARGEST} weights.",
                fix="Save a .png, or look at a shorter text.",
                tokens=count,
                weights=size,
            )
        )
    lower = np.tril_indices(count)
    data = {
        "tokens": [label(token) for token in maps.tokens],
        # The half below the diagonal, row by row, a byte for each weight.
        "layers": [[_bytes(head[lower]) for head in layer] for layer in maps.weights],
        "chosen": list(chosen),
    }
    body = (
        "<p>Point at a token: the darker another one, the more the first looks at it. Each small"
        " map is one head; choose one. Tokens look down the side at those along the top.</p>\n"
        '<div id="text" class="text"></div>\n<p id="where" class="note">&nbsp;</p>\n'
        '<div class="side"><canvas id="map"></canvas><div id="heads"></div></div>\n'
        f'<script type="application/json" id="data">{_json(data)}</script>\n'
        f"<script>\n{_file('attention.js')}</script>"
    )
    return _page("Attention", body)


def surprise(found: Surprise) -> str:
    """The text, each token coloured by its rank, with what was expected in its place."""
    legend = " ".join(
        f'<span class="key" style="background:{color}">rank {name}</span>'
        for color, name in zip(COLORS, BUCKETS, strict=True)
    )
    scored = int((found.ranks > 0).sum())
    total = -found.logprob / np.log(2)
    body = (
        f'<p>{legend}</p>\n<p class="note">{scored} tokens scored, {total:.1f} bits in all'
        + (f", {total / scored:.2f} for each." if scored else ".")
        + ' Point at one for what was expected.</p>\n<div class="text">'
        + "".join(_surprised(found, i) for i in range(len(found.ids)))
        + "</div>"
    )
    return _page("Surprise", body)


def lens(found: LogitLens) -> str:
    """A table of what each layer says, the last layer first."""
    layers, count = found.top_ids.shape[:2]
    head = "".join(f"<th><bdi>{escape(label(token))}</bdi></th>" for token in found.tokens)
    rows = []
    for layer in reversed(range(layers)):
        cells = "".join(_cell(found, layer, place) for place in range(count))
        rows.append(f"<tr><th>{layer_names(layers)[layer]}</th>{cells}</tr>")
    body = (
        "<p>After each token of the text (top) the likeliest next one, if the layer (left) were the"
        " last. The darker, the surer; a frame marks the token that does come next.</p>\n"
        f'<div class="scroll"><table><tr><th></th>{head}</tr>\n'
        + "\n".join(rows)
        + "</table></div>"
    )
    return _page("Logit lens", body)


def _surprised(found: Surprise, place: int) -> str:
    """One token of the text with its card."""
    token, rank = found.tokens[place], int(found.ranks[place])
    shown = escape(_running(token))
    if not rank:
        return f'<span class="token first" title="follows nothing"><bdi>{shown}</bdi></span>'
    expected = "".join(
        f"<tr><td><bdi>{escape(label(other))}</bdi></td><td>{probability:.1%}</td></tr>"
        for other, probability in zip(
            found.top_tokens[place], found.top_probabilities[place].tolist(), strict=True
        )
    )
    card = (
        f'<span class="card"><b><bdi>{escape(label(token))}</bdi></b> rank {rank:,},'
        f" {_percent(found.probabilities[place])}<table>{expected}</table></span>"
    )
    return (
        f'<span class="token" tabindex="0" style="background:{COLORS[bucket(rank)]}">'
        f"<bdi>{shown}</bdi>{card}</span>"
    )


def _cell(found: LogitLens, layer: int, place: int) -> str:
    names = [label(token) for token in found.top_tokens[layer][place]]
    chances = found.top_probabilities[layer, place].tolist()
    lines = [f"{name}  {_percent(chance)}" for name, chance in zip(names, chances, strict=True)]
    right = ""
    if place + 1 < len(found.ids):
        rank = int(found.next_ranks[layer, place])
        chance = float(np.exp(found.next_logprobs[layer, place]))
        lines.append(f"next: {label(found.tokens[place + 1])}  rank {rank:,}, {_percent(chance)}")
        right = " class=right" if rank == 1 else ""
    dark = ";color:#fff" if chances[0] > 0.6 else ""
    title = escape("\n".join(lines))
    return (
        f'<td{right} style="background:rgba(8,69,148,{chances[0]:.2f}){dark}" title="{title}">'
        f"<bdi>{escape(names[0])}</bdi></td>"
    )


def _running(token: bytes) -> str:
    """A token as part of a running text: blanks stay, the end of a line is shown and kept."""
    text = token.decode("utf-8", "backslashreplace")
    kept = {" ": " ", "\n": "\u21b5\n", "\t": "\t"}
    return "".join(kept.get(letter) or printable(letter) for letter in text)


def _percent(chance: float) -> str:
    return f"{chance:.1%}" if chance >= 0.001 else f"{chance:.1e}"


def _bytes(weights: np.ndarray) -> str:
    return base64.b64encode(np.rint(weights * 255).astype(np.uint8).tobytes()).decode("ascii")


def _json(data: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _page(title: str, body: str) -> str:
    return _PAGE.format(title=title, style=_file("style.css"), body=body)


def _file(name: str) -> str:
    return (importlib.resources.files("tfgpt2.inspect") / "page" / name).read_text("utf-8")
