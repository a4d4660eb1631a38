"""A peer's process, as the driver sees it: ask and get an answer, or learn that there is none."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LAST_LINES = 3  # of what a process printed before it ended


def free_gigabytes() -> float:
    """Memory that programs can still have; endless where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next((int(line.split()[1]) / 1e6 for line in lines if "MemAvailable" in line), 0.0)


class PeerError(RuntimeError):
    """A peer could not do what it was asked."""


class Worker:
    """Starts a peer's program and speaks JSON lines with it.

    Args:
        command: The program and its arguments.
        log: A file for what it prints beside its answers.
        seconds: How long an answer may take.
        variables: Changes of the environment.
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
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for the answer.

        Raises:
            PeerError: It answered with an error, ended, or took too long; a process that took too
                long is ended, because its next answer would be taken for another's.
        """
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=self.seconds)
        except queue.Empty:
            self.close()
            raise PeerError(f"no answer in {self.seconds:.0f} s") from None
        except OSError:
            line = None
        if line is None:
            self._process.wait()
            raise PeerError(f"ended with {self._process.returncode}: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-LAST_LINES:])[-300:] or "it printed nothing"

    def close(self) -> None:
        """Ends the process: by its own will, or else by force."""
        if not self.alive:
            return
        try:
            self._process.stdin.write('{"do": "quit"}\n')
            self._process.stdin.close()
            self._process.wait(timeout=2)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
