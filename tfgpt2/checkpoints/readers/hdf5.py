"""Safe reading of HDF5 files: plain arrays inside the file itself, and nothing else."""

from __future__ import annotations

from pathlib import Path

import h5py
import ml_dtypes
import numpy as np

from tfgpt2.errors import unreadable


def list_datasets(path: Path) -> list[str]:
    """Lists the datasets that a file holds, by their path in it.

    The lists of names that Keras adds as attributes are not used: a dataset that they name and
    the file lacks is a missing weight in any case, and damaged lists make HDF5 loop for ever.

    Args:
        path: The file.

    Raises:
        ValueError: The file is damaged, or holds no datasets.
    """
    names: list[str] = []
    with open_file(path) as file:
        try:
            # Visits each object once, through the file's own groups; links are not followed.
            file.visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise unreadable(path, f"it cannot be listed ({error})") from error
    if not names:
        raise unreadable(path, "it holds no weights")
    # h5py returns bytes for a name that is not UTF-8; such a dataset is then not found again.
    return [name if isinstance(name, str) else name.decode("utf-8", "replace") for name in names]


def open_file(path: Path) -> h5py.File:
    """Opens a file for reading; one that is not a complete HDF5 file raises ValueError."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise unreadable(path, f"it is not a complete HDF5 file ({error})") from error


def checked_dataset(path: Path, file: h5py.File, name: str, key: str) -> h5py.Dataset:
    """Returns a dataset after checking that it is a plain array inside this file.

    HDF5 can refer to other files (external links, external and virtual datasets), and can declare
    more than it stores (compressed or unwritten datasets); no checkpoint does.

    Args:
        path: The file's path, for the message.
        file: The open file.
        name: Path of the dataset in it.
        key: The key it is read for, for the message.

    Raises:
        ValueError: It is missing, or is not a plain array inside this file.
    """
    found = _child(path, file, name, key)
    if not isinstance(found, h5py.Dataset):
        raise unreadable(path, f"the dataset {name!r} is missing", key=key)
    try:
        elsewhere, numbers = found.external or found.is_virtual, number_type(found)
        size = None if found.shape is None else found.size * found.dtype.itemsize
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise unreadable(path, f"the dataset {name!r} is damaged ({error})", key=key) from error
    if elsewhere:
        raise unreadable(path, f"the dataset {name!r} refers to another file", key=key)
    if numbers is None or size is None:
        raise unreadable(path, f"the dataset {name!r} holds no numbers", key=key)
    stored = found.id.get_storage_size()
    if found.compression is not None or stored < size:
        raise unreadable(
            path,
            f"the dataset {name!r} stores {stored} bytes for shape {list(found.shape)} of"
            f" {found.dtype}; compressed and empty datasets are not accepted",
            key=key,
        )
    return found


def read_dataset(path: Path, name: str, key: str) -> np.ndarray:
    """Reads one checked dataset into a new array; the arguments are those of `checked_dataset`."""
    with open_file(path) as file:
        found = checked_dataset(path, file, name, key)
        array = np.empty(found.shape, found.dtype)
        try:
            if array.size:
                found.read_direct(array)
        except OSError as error:
            reason = f"the dataset {name!r} cannot be read ({error})"
            raise unreadable(path, reason, key=key) from error
        return array.view(number_type(found))


def number_type(dataset: h5py.Dataset) -> np.dtype | None:
    """Returns the type of a dataset's numbers, or None when it does not hold numbers.

    HDF5 does not have bfloat16; Keras stores two opaque bytes and an attribute with that name.
    """
    if dataset.dtype.kind in "fiub":
        return dataset.dtype
    if dataset.dtype.kind == "V" and dataset.dtype.itemsize == 2:
        if dataset.attrs.get("dtype") == "bfloat16":
            return np.dtype(ml_dtypes.bfloat16)
    return None


def _child(path: Path, file: h5py.File | h5py.Group, name: str, key: str) -> object:
    """Follows a path through the file's own groups; returns None where it ends."""
    here: object = file
    for step in name.split("/"):
        if not isinstance(here, h5py.Group) or step in ("", ".", ".."):
            return None
        try:
            link = here.get(step, getlink=True)
            if link is not None and not isinstance(link, h5py.HardLink):
                raise unreadable(path, f"{name!r} is a link", key=key)
            here = here.get(step) if link is not None else None
        except (KeyError, RuntimeError, OSError) as error:
            raise unreadable(path, f"{name!r} cannot be read ({error})", key=key) from error
    return here
