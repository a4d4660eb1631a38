"""The output directory of a training run: one run at a time, and the error of a full disk."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from tfgpt2.errors import explain

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_NAME = ".lock"
_OS_ERROR = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+)")  # in safetensors' errors


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Context in which no other training run can enter the same directory.

    An advisory lock (`flock`) on the file `.lock`, which holds the number of the process. The
    operating system releases it when the process ends, in whatever way, so none is ever left
    behind; the file stays. Where the file system or the operating system has no such locks, a
    warning says so.

    Args:
        directory: Created if it does not exist.

    Raises:
        RuntimeError: Another training run is in the directory.
        OSError: The directory is not writable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, lock_directory(Path(folder)):
        ...     print(Path(folder, ".lock").read_text() == str(os.getpid()))
        True
    """
    path = directory / LOCK_NAME
    with report_write_errors("The output directory", directory):
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if _lock(handle, path):
            with contextlib.suppress(OSError):  # a full disk; the number is only a help
                os.ftruncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)  # and releases the lock


def _lock(handle: int, path: Path) -> bool:
    """Locks an open file; returns False where there are no locks."""
    reason = "this operating system has none"
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError as error:
            raise RuntimeError(
                explain(
                    "Another training run writes to the output directory.",
                    fix="Wait until it has ended, or use another directory.",
                    output=str(path.parent),
                    process=os.read(handle, 20).decode(errors="replace"),
                )
            ) from error
        except OSError as error:
            reason = str(error.strerror)
    warnings.warn(
        f"{path} cannot be locked ({reason}): make sure that no second training run uses this"
        " directory.",
        stacklevel=2,
    )
    return False


@contextlib.contextmanager
def report_write_errors(what: str, path: str | os.PathLike[str], **more: object) -> Iterator[None]:
    """Context that raises errors of the file system as an `OSError` that says how to go on.

    Args:
        what: What is written, such as `"A checkpoint"`.
        path: Where.
        **more: Further values for the message.

    Raises:
        OSError: A file could not be written; with the same `errno`.

    Example:
        >>> with report_write_errors("The log", "log.jsonl"):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        OSError: [Errno 28] The log could not be written: No space left on device. Received: \
path='log.jsonl'. Free some space or make it writable, and go on from the last complete checkpoint \
with --resume.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        code, reason = _reason(error)
        if code is None:  # not of the file system, and with an explanation of its own
            raise
        raise OSError(
            code,
            explain(
                f"{what} could not be written: {reason}.",
                fix="Free some space or make it writable, and go on from the last complete"
                " checkpoint with --resume.",
                path=str(path),
                **more,
            ),
        ) from error


def _reason(error: Exception) -> tuple[int | None, str]:
    """The number and the text of an error of the operating system; None for another error."""
    if isinstance(error, OSError):
        return error.errno, error.strerror or str(error)
    found = _OS_ERROR.search(str(error))
    code = int(found[1] or found[2]) if found else None
    return code, os.strerror(code) if code is not None else str(error)
