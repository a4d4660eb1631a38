"""One `save` for all records: the name's ending chooses between a picture and a page."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfgpt2.errors import explain


def save(
    path: str | os.PathLike[str], page: Callable[[], str], figure: Callable[[], Any], dpi: int
) -> Path:
    """Writes a record.

    Args:
        path: Ends in `.html` or `.png`; its folder is made if need be.
        page: Makes the page.
        figure: Makes the `matplotlib.figure.Figure`; its import may fail.
        dpi: Dots per inch of a picture.

    Returns:
        The path.

    Raises:
        ValueError: The name has another ending.
        ImportError: matplotlib is missing, for a picture.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".html", ".png"):
        raise ValueError(
            explain("The file's name must end in .html or .png.", fix="Rename it.", path=str(path))
        )
    if kind == ".png":
        try:
            drawn = figure()
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "matplotlib":
                raise
            raise ImportError(
                explain(
                    "Pictures need matplotlib, which is not installed.",
                    fix="Install the extra: pip install 'tfgpt2[inspect]', or save a page (.html).",
                    path=str(path),
                )
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, dpi=dpi)
    else:
        content = page()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return path
