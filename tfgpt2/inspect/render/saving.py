"""Saving of records: the suffix of the file selects a PNG or an HTML page."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from tfgpt2 import extras
from tfgpt2.errors import shorten, value_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, repr=False)
class Record:
    """A text's tokens, and the measurements of each that a subclass adds.

    Attributes:
        ids: int32 `[T]`.
        tokens: The bytes of each.
    """

    ids: np.ndarray
    tokens: tuple[bytes, ...]

    def save(self, path: str | os.PathLike[str], *, dpi: int = 100) -> Path:
        """Draws the record.

        Args:
            path: Ends in `.png` or `.html`. In a page, pointing at a token shows the others that
                were likely.
            dpi: Dots per inch of a PNG.

        Returns:
            The path.

        Raises:
            ValueError: The path has another suffix.
            ImportError: A PNG needs matplotlib.
        """
        return save(path, self._page, self._figure, dpi)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({describe(self.tokens)})"

    def _repr_html_(self) -> str:
        return frame(self._page())

    def _page(self) -> str:
        """The record as HTML."""
        raise NotImplementedError

    def _figure(self, figures: ModuleType) -> Figure:
        """The record drawn by the module `render.figures`."""
        raise NotImplementedError


def save(
    path: str | os.PathLike[str],
    page: Callable[[], str],
    figure: Callable[[ModuleType], Figure],
    dpi: int,
) -> Path:
    """Writes a page or a figure.

    Args:
        path: Ends in `.html` or `.png`; its folder is created if necessary.
        page: Makes the page.
        figure: Makes the figure, given the module `render.figures`.
        dpi: Dots per inch of a figure.

    Returns:
        The path.

    Raises:
        ValueError: The path has another suffix.
        ImportError: matplotlib, which figures need, is not installed.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind == ".png":
        drawn = figure(_figures(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, dpi=dpi)
    elif kind == ".html":
        content = page()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    else:
        raise value_error(
            "The path must end in .html or .png.", fix="Rename the file.", path=str(path)
        )
    return path


def describe(tokens: Sequence[bytes]) -> str:
    """How many tokens there are, and how they begin."""
    text = shorten(b"".join(tokens).decode("utf-8", "replace"), 40)
    return f"{len(tokens)} tokens: {text}"


def frame(page: str) -> str:
    """A page within a notebook; its styles and scripts stay in it."""
    return (
        '<iframe sandbox="allow-scripts" style="width:100%;height:26em;border:0"'
        f' srcdoc="{escape(page)}"></iframe>'
    )


def _figures(path: Path) -> ModuleType:
    """The module that draws; importing it needs matplotlib."""
    extras.require("A picture (.png; a page, .html, does without)", "inspect")
    from tfgpt2.inspect.render import figures

    return figures
