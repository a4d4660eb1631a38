"""Loaded versions: watching folders, loading, switching, unloading.

A new version is loaded and warmed up completely while the old one serves; then requests go to the
new one, and the old one is unloaded once its last request is answered. A version that fails to load
is reported and never replaces a loaded one; it is tried again when its files change.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tfgpt2.heap import release_free_memory
from tfgpt2.serving.server import registry
from tfgpt2.serving.server.servable import Servable
from tfgpt2.serving.server.serving_error import ServingError, cut, from_exception, invalid
from tfgpt2.serving.version_number import parse_version

LOADING, AVAILABLE, UNLOADING, END = "LOADING", "AVAILABLE", "UNLOADING", "END"
Fingerprint = tuple[tuple[str, int, int], ...]  # path, size and time of each file
NO_VERSIONS = "Could not find any versions of model {name}"  # for `ModelRegistry.get`
_log = logging.getLogger(__name__)


class VersionFiles(NamedTuple):
    """What a scan found of a version.

    Attributes:
        folder: Its directory, which need not be called like the number: 1 may be `001`.
        fingerprint: Changes when its files do.
    """

    folder: Path
    fingerprint: Fingerprint


class VersionStatus(NamedTuple):
    """State of a version.

    Attributes:
        version: Its number.
        state: `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
        code: `OK`, or the error code of loading it.
        message: The error message.
    """

    version: int
    state: str
    code: str = "OK"
    message: str = ""


class _Version:
    """A version and the number of its leases."""

    def __init__(self, number: int, fingerprint: Fingerprint):
        self.status = VersionStatus(number, LOADING)
        self.fingerprint = fingerprint
        self.servable: Servable | None = None
        self.leases = 0
        self.idle = asyncio.Event()
        self.idle.set()


class VersionManager:
    """Loads, leases and unloads the versions of one model.

    Args:
        name: The model's name.
        path: Its base path.
        labels: Version number by label.
        keep_versions: How many of the newest versions are served.
        load: Makes a `Servable` from name, version and path.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        labels: Mapping[str, int],
        keep_versions: int = 1,
        load: Callable[[str, int, Path], Servable] = registry.load,
    ):
        self.name, self.path, self.created = name, path, int(time.time())
        self._labels, self._keep_versions, self._load = labels, keep_versions, load
        self._versions: dict[int, _Version] = {}
        self._polled = False
        self._last_scan: dict[int, VersionFiles] = {}  # to see whether files still change
        self._ignored: dict[str, str] = {}  # reason by name of a directory
        self._loader = ThreadPoolExecutor(1, thread_name_prefix=f"load-{name}")
        self._unloading: set[asyncio.Task[None]] = set()

    def statuses(self, version: int | None = None) -> list[VersionStatus]:
        """Returns the status of one version or of all, newest first.

        Raises:
            ServingError: NOT_FOUND.
        """
        found = [
            self._versions[number].status
            for number in sorted(self._versions, reverse=True)
            if version in (None, number)
        ]
        if not found:
            what = "any versions" if version is None else f"version {version}"
            raise ServingError("NOT_FOUND", f"Could not find {what} of model {self.name}")
        return found

    def available(self) -> list[int]:
        """Returns the numbers of the versions that serve, newest first."""
        return [
            number
            for number in sorted(self._versions, reverse=True)
            if self._versions[number].status.state == AVAILABLE
        ]

    @contextlib.contextmanager
    def lease(self, version: int | None = None, label: str | None = None) -> Iterator[Servable]:
        """Leases a version: it is not unloaded before the lease ends.

        Args:
            version: Its number; None is the newest.
            label: Or its label.

        Raises:
            ServingError: NOT_FOUND, UNAVAILABLE while the first version loads, or
                INVALID_ARGUMENT for an unknown label.
        """
        if label is not None:
            if label not in self._labels:
                raise invalid(f"Unrecognized servable version label: {cut(label)}")
            version = self._labels[label]
        available = self.available()
        matching = [number for number in available if version in (None, number)]
        if not available and self._may_load_soon():
            # TensorFlow Serving does not listen yet at this time, and clients try again.
            raise ServingError("UNAVAILABLE", f"The model {self.name} is loading. Try again soon.")
        if not matching:
            spec = f"{self.name}, {version}"
            spec = f"Latest({self.name})" if version is None else f"Specific({spec})"
            raise ServingError("NOT_FOUND", f"Servable not found for request: {spec}")
        leased = self._versions[matching[0]]
        leased.leases += 1
        leased.idle.clear()
        try:
            yield leased.servable
        finally:
            leased.leases -= 1
            if not leased.leases:
                leased.idle.set()

    async def poll(self, *, wait_until_stable: bool = True) -> None:
        """Scans the folder once, and loads and unloads versions accordingly.

        Args:
            wait_until_stable: Do not load a new version before two scans found the same files.
        """
        found, ignored = await self._in_thread(_scan, self.path)
        for name, reason in ignored.items():
            if self._ignored.get(name) != reason:
                _log.warning("%s: the directory %s is ignored: %s", self.name, name, reason)
        self._ignored = ignored
        loadable = {
            number: files
            for number, files in found.items()
            if not wait_until_stable or self._last_scan.get(number) == files
        }
        self._last_scan = found
        serving: list[int] = []
        for number in sorted(found, reverse=True):
            if len(serving) == self._keep_versions:
                break
            if number in self.available() or (
                number in loadable and await self._try_load(number, loadable[number])
            ):
                serving.append(number)
        self._polled = True
        if serving:  # else the loaded versions go on serving, whatever happened to their files
            for number in self.available():
                if number not in serving:
                    self._start_unloading(number)

    async def close(self) -> None:
        """Unloads everything."""
        for number in self.available():
            self._start_unloading(number)
        await asyncio.gather(*self._unloading)
        self._loader.shutdown(wait=False)

    def _may_load_soon(self) -> bool:
        """Whether the first poll is not over, or a version is loading."""
        loading = any(one.status.state == LOADING for one in self._versions.values())
        return loading or not self._polled

    async def _try_load(self, number: int, files: VersionFiles) -> bool:
        """Loads a version unless the same files failed before; returns whether it serves now."""
        known = self._versions.get(number)
        if known is not None:
            if known.status.state == UNLOADING:
                return False  # it is still leased; the next poll tries again
            if known.status.code != "OK" and known.fingerprint == files.fingerprint:
                return False
        version = self._versions[number] = _Version(number, files.fingerprint)
        try:
            version.servable = await self._in_thread(self._load_and_warm_up, number, files.folder)
        except Exception as error:  # a broken version must not stop the server
            failure = from_exception(error)
            version.status = VersionStatus(number, END, failure.code, failure.message)
            _log.error("%s version %d failed to load: %s", self.name, number, failure.message)
            return False
        version.status = VersionStatus(number, AVAILABLE)
        _log.info("%s version %d is available", self.name, number)
        return True

    def _load_and_warm_up(self, number: int, folder: Path) -> Servable:
        servable = self._load(self.name, number, folder)
        servable.warm_up()
        release_free_memory()
        return servable

    def _start_unloading(self, number: int) -> None:
        version = self._versions[number]
        version.status = VersionStatus(number, UNLOADING)
        task = asyncio.get_running_loop().create_task(self._unload(version))
        self._unloading.add(task)  # the event loop keeps only a weak reference
        task.add_done_callback(self._unloading.discard)

    async def _unload(self, version: _Version) -> None:
        await version.idle.wait()
        version.servable = None
        # A loaded function and its graph reference each other; the collector frees both.
        await self._in_thread(gc.collect)
        version.status = VersionStatus(version.status.version, END)
        _log.info("%s version %d is unloaded", self.name, version.status.version)

    async def _in_thread(self, function: Callable, *arguments: object) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._loader, function, *arguments)


class ModelRegistry:
    """The models of a server.

    Args:
        models: Version manager of each model, by name.
        poll_seconds: Seconds between two scans of the folders.
    """

    def __init__(self, models: Mapping[str, VersionManager], poll_seconds: float = 1.0):
        self._models, self._poll_seconds = dict(models), poll_seconds
        self._watchers: list[asyncio.Task[None]] = []

    def __iter__(self) -> Iterator[VersionManager]:
        return iter(self._models.values())

    def get(
        self, name: str, missing: str = "Servable not found for request: Latest({name})"
    ) -> VersionManager:
        """Returns the version manager of a model.

        Args:
            name: The model's name.
            missing: Message of the error.

        Raises:
            ServingError: NOT_FOUND.
        """
        if name not in self._models:
            raise ServingError("NOT_FOUND", missing.format(name=cut(name)))
        return self._models[name]

    def ready(self) -> bool:
        """Whether each model has a version that serves."""
        return all(model.available() for model in self)

    async def start(self) -> None:
        """Loads the versions that exist and starts watching."""
        await asyncio.gather(*(_poll(model, wait_until_stable=False) for model in self))
        self._watchers = [asyncio.create_task(self._watch(model)) for model in self]

    async def close(self) -> None:
        """Stops watching; what is loaded is freed with the process."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    async def _watch(self, model: VersionManager) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            await _poll(model, wait_until_stable=True)


async def _poll(model: VersionManager, *, wait_until_stable: bool) -> None:
    try:
        await model.poll(wait_until_stable=wait_until_stable)
    except OSError as error:  # the folder may be unreachable for a while
        _log.warning("Cannot scan the versions of %s: %s", model.name, error)


def _scan(path: Path) -> tuple[dict[int, VersionFiles], dict[str, str]]:
    """Finds the version directories that contain a model; a LiteRT export itself is version 1.

    Returns:
        The versions by number, and why other directories are ignored, by name.
    """
    if own := _fingerprint(path):
        return {1: VersionFiles(path, own)}, {}
    found: dict[int, VersionFiles] = {}
    ignored: dict[str, str] = {}
    # Of two directories with the same number TensorFlow Serving takes the last by name, too.
    # Source: tensorflow/serving file_system_storage_path_source.cc::IndexChildrenByVersion.
    for folder in sorted(path.iterdir(), key=lambda child: os.fsencode(child.name)):
        number = parse_version(folder.name)
        if number is None:
            continue
        try:
            fingerprint = _fingerprint(folder)
        except OSError as error:  # must not hide the other versions
            ignored[folder.name] = f"it cannot be read: {error}"
            continue
        if not fingerprint:
            continue
        if number in found:
            ignored[found[number].folder.name] = f"{folder.name} is version {number}, too."
        found[number] = VersionFiles(folder, fingerprint)
    return found, ignored


def _fingerprint(folder: Path) -> Fingerprint:
    """Returns path, size and time of each file of a version; nothing if it is none."""
    if registry.marker(folder) is None:
        return ()
    stats = ((str(file), file.stat()) for file in sorted(folder.rglob("*")) if file.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
