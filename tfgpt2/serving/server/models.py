"""Which versions are loaded: watching folders, loading, switching, unloading.

A new version is loaded and warmed up completely while the old one serves; then requests go to the
new one, and the old one goes when its last request is answered. A version that does not load is
reported and never replaces one that did; it is tried again when its files change.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tfgpt2.serving.server.saved_model import Servable
from tfgpt2.serving.server.status import ServingError, from_exception, invalid

START, LOADING, AVAILABLE, UNLOADING, END = "START", "LOADING", "AVAILABLE", "UNLOADING", "END"
Stamp = tuple[tuple[str, int, int], ...]  # path, size and time of each file
_log = logging.getLogger(__name__)


class VersionStatus(NamedTuple):
    """What is known of a version.

    Attributes:
        version: Its number.
        state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
        code: `OK`, or why it did not load.
        message: The same in words.
    """

    version: int
    state: str
    code: str = "OK"
    message: str = ""


class _Version:
    """A version and who uses it."""

    def __init__(self, number: int, stamp: Stamp):
        self.status = VersionStatus(number, START)
        self.stamp = stamp
        self.servable: Servable | None = None
        self.users = 0
        self.idle = asyncio.Event()
        self.idle.set()


class Model:
    """The versions of one model.

    Args:
        name: Its name.
        path: Its base path.
        labels: Version number by label.
        keep: How many of the newest versions are served.
        load: Makes a `Servable` from name, version and path; for tests.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        labels: Mapping[str, int],
        keep: int = 1,
        load: Callable[[str, int, Path], Servable] = Servable,
    ):
        self.name, self.path, self._labels, self._keep, self._load = name, path, labels, keep, load
        self.since = int(time.time())
        self._versions: dict[int, _Version] = {}
        self._looked = False
        self._seen: dict[int, Stamp] = {}  # of the last look, to see whether files still change
        self._loader = ThreadPoolExecutor(1, thread_name_prefix=f"load-{name}")
        self._unloading: set[asyncio.Task[None]] = set()

    def statuses(self, version: int | None = None) -> list[VersionStatus]:
        """All versions, newest first, or one.

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
        """Numbers of the versions that serve, newest first."""
        return [
            number
            for number in sorted(self._versions, reverse=True)
            if self._versions[number].status.state == AVAILABLE
        ]

    @contextlib.contextmanager
    def lease(self, version: int | None = None, label: str | None = None) -> Iterator[Servable]:
        """Holds a version: it is not unloaded before the lease ends.

        Args:
            version: Its number; None is the newest.
            label: Or its label.

        Raises:
            ServingError: NOT_FOUND, UNAVAILABLE while the first version loads, or
                INVALID_ARGUMENT for an unknown label.
        """
        if label is not None:
            if label not in self._labels:
                raise invalid(f"Unrecognized servable version label: {label}")
            version = self._labels[label]
        ready = [n for n in self.available() if version in (None, n)]
        if not ready and not self.available() and self._on_its_way():
            # The real server does not listen yet at this time, and clients try again.
            raise ServingError("UNAVAILABLE", f"The model {self.name} is loading. Try again soon.")
        if not ready:
            asked = (
                f"Latest({self.name})" if version is None else f"Specific({self.name}, {version})"
            )
            raise ServingError("NOT_FOUND", f"Servable not found for request: {asked}")
        held = self._versions[ready[0]]
        held.users += 1
        held.idle.clear()
        try:
            yield held.servable
        finally:
            held.users -= 1
            if not held.users:
                held.idle.set()

    async def look(self, *, patient: bool = True) -> None:
        """Looks at the folder once, and loads and unloads as it says.

        Args:
            patient: Leave a new version alone until two looks found the same files.
        """
        found = await self._in_thread(_scan, self.path)
        settled = {n: s for n, s in found.items() if not patient or self._seen.get(n) == s}
        self._seen = found
        serving: list[int] = []
        for number in sorted(found, reverse=True):
            if len(serving) == self._keep:
                break
            if number in self.available() or (
                number in settled and await self._try(number, settled[number])
            ):
                serving.append(number)
        self._looked = True
        if serving:  # else what serves goes on, whatever happened to its files
            for number in self.available():
                if number not in serving:
                    self._retire(number)

    async def close(self) -> None:
        """Unloads everything."""
        for number in self.available():
            self._retire(number)
        await asyncio.gather(*self._unloading)
        self._loader.shutdown(wait=False)

    def _on_its_way(self) -> bool:
        """Whether a version may serve soon: the first look is not over, or one is loading."""
        loading = any(one.status.state == LOADING for one in self._versions.values())
        return loading or not self._looked

    async def _try(self, number: int, stamp: Stamp) -> bool:
        """Loads a version unless the same files failed before; says whether it serves now."""
        known = self._versions.get(number)
        if known is not None:
            if known.status.state == UNLOADING:
                return False  # its requests still run; the next look sees it again
            if known.status.code != "OK" and known.stamp == stamp:
                return False
        version = self._versions[number] = _Version(number, stamp)
        version.status = VersionStatus(number, LOADING)
        try:
            version.servable = await self._in_thread(self._load_and_warm_up, number)
        except Exception as error:  # any failure is this version's, not the server's
            failure = from_exception(error)
            version.status = VersionStatus(number, END, failure.code, failure.message)
            _log.error("%s version %d does not load: %s", self.name, number, failure.message)
            return False
        version.status = VersionStatus(number, AVAILABLE)
        _log.info("%s version %d serves", self.name, number)
        return True

    def _load_and_warm_up(self, number: int) -> Servable:
        servable = self._load(self.name, number, self.path / str(number))
        servable.warm_up()
        return servable

    def _retire(self, number: int) -> None:
        version = self._versions[number]
        version.status = VersionStatus(number, UNLOADING)
        task = asyncio.get_running_loop().create_task(self._unload(version))
        self._unloading.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._unloading.discard)

    async def _unload(self, version: _Version) -> None:
        await version.idle.wait()
        version.servable = None
        # A loaded function and its graph hold each other; what they own goes with the cycle.
        await self._in_thread(gc.collect)
        version.status = VersionStatus(version.status.version, END)
        _log.info("%s version %d is unloaded", self.name, version.status.version)

    async def _in_thread(self, function: Callable, *arguments: object) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._loader, function, *arguments)


class Models:
    """All models of a server.

    Args:
        models: By name.
        poll_seconds: Seconds between two looks at the folders.
    """

    def __init__(self, models: Mapping[str, Model], poll_seconds: float = 1.0):
        self._models, self._poll_seconds = dict(models), poll_seconds
        self._watchers: list[asyncio.Task[None]] = []

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def get(self, name: str, missing: str = "Servable not found for request: Latest({name})"):
        """A model.

        Raises:
            ServingError: NOT_FOUND.
        """
        if name not in self._models:
            raise ServingError("NOT_FOUND", missing.format(name=name))
        return self._models[name]

    def ready(self) -> bool:
        """Whether each model has a version that serves."""
        return all(model.available() for model in self)

    async def start(self) -> None:
        """Loads what is there and begins to watch."""
        await asyncio.gather(*(model.look(patient=False) for model in self))
        self._watchers = [asyncio.create_task(self._watch(model)) for model in self]

    async def close(self) -> None:
        """Stops watching; what is loaded goes with the process."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    async def _watch(self, model: Model) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await model.look()
            except OSError as error:  # the folder may be away for a while
                _log.warning("Cannot look for versions of %s: %s", model.name, error)


def _scan(path: Path) -> dict[int, Stamp]:
    """Version directories that hold a SavedModel, with what tells whether they changed."""
    found = {}
    for folder in path.iterdir():
        if folder.name.isascii() and folder.name.isdigit() and folder.is_dir():
            files = [file for file in folder.rglob("*") if file.is_file()]
            if folder / "saved_model.pb" in files:
                stats = ((str(file), file.stat()) for file in sorted(files))
                found[int(folder.name)] = tuple((n, s.st_size, s.st_mtime_ns) for n, s in stats)
    return found
