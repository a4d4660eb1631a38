"""The driver's side of a worker process: requests, answers, timeouts."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LAST_LINES = 3  # of the log, quoted when a worker dies


def free_gigabytes() -> float:
    """Available memory; infinite where the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next((int(line.split()[1]) / 1e6 for line in lines if "MemAvailable" in line), 0.0)


class BackendError(RuntimeError):
    """A backend failed to answer a request."""


class Worker:
    """A backend in its own process, driven by JSON lines.

    Args:
        command: Command line of the process.
        log: File that receives its standard error.
        seconds: Timeout of an answer.
        variables: Additional environment variables.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        log: Path,
        seconds: float,
        variables: dict[str, str] | None = None,
    ) -> None:
        self.log, self.seconds = log, seconds
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env=os.environ | (variables or {}),
            )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def send(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            BackendError: The backend answered with an error, exited, or timed out. After a timeout
                the process is stopped, because a late answer would be taken for the next one.
        """
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=self.seconds)
        except queue.Empty:
            self.close()
            raise BackendError(f"no answer in {self.seconds:.0f} s") from None
        except OSError:
            line = None
        if line is None:
            self._process.wait()
            raise BackendError(f"exited with {self._process.returncode}: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise BackendError(answer["error"])
        return answer

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-LAST_LINES:])[-300:] or "no output"

    def close(self) -> None:
        """Ask the process to quit, and kill it if it does not."""
        if not self.alive:
            return
        try:
            self._process.stdin.write('{"do": "quit"}\n')
            self._process.stdin.close()
            self._process.wait(timeout=2)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
