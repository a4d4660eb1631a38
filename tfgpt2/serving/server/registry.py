"""The kinds of versions that are served.

To add one, write a class that is a `servable.Servable` in a file of this folder, and list what
loads it in `LOADERS`, by the file that such a version directory has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tfgpt2.quiet import quiet
from tfgpt2.serving.server.servable import Servable
from tfgpt2.serving.server.serving_error import invalid

Loader = Callable[[str, int, Path, Sequence[int]], Servable]
SAVED_MODEL, LITERT = "saved_model.pb", "litert.json"


def _load_saved_model(name: str, version: int, path: Path, slots: Sequence[int]) -> Servable:
    with quiet():  # TensorFlow is imported here
        from tfgpt2.serving.server.saved_model import SavedModel

    return SavedModel(name, version, path, slots)


def _load_litert(name: str, version: int, path: Path, slots: Sequence[int]) -> Servable:
    from tfgpt2.serving.server.litert_model import LiteRTModel

    return LiteRTModel(name, version, path, slots)


LOADERS: Mapping[str, Loader] = {SAVED_MODEL: _load_saved_model, LITERT: _load_litert}


def marker(folder: Path) -> str | None:
    """The file that says what a directory is; None if it is no version."""
    return next((name for name in LOADERS if (folder / name).is_file()), None)


def load(name: str, version: int, path: Path, slot_counts: Sequence[int] = ()) -> Servable:
    """Loads a version.

    Args:
        name: The model's name.
        version: The version's number.
        path: The version directory.
        slot_counts: The numbers of slots that an engine will have; none: it is not used.

    Raises:
        ServingError: INVALID_ARGUMENT: it is no version.
        Exception: It is damaged, or something that it needs is not installed.
    """
    kind = marker(path)
    if kind is None:
        raise invalid(f"The directory has none of {', '.join(LOADERS)}.")
    return LOADERS[kind](name, version, path, slot_counts)


def needs_tensorflow(path: Path) -> bool:
    """Whether a base path has, or may get, versions other than LiteRT exports.

    Args:
        path: A folder of numbered versions, or a LiteRT export itself.
    """
    try:
        folders = [path, *(one for one in path.iterdir() if one.is_dir())]
        kinds = {marker(folder) for folder in folders}
    except OSError:  # it may be reachable later
        return True
    return kinds - {None} != {LITERT}
