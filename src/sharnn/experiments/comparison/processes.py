"""Processes of a comparison: started, waited for, and ended with it."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sharnn.errors import INTERRUPTED, TrainingError
from sharnn.files import explain_os_error

#: Exit codes of a process that was stopped; the last two, before it could handle the signal.
_STOPPED_CODES = (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM)


class StoppedError(TrainingError):
    """Work that was asked to end before it was done; what it has saved can be gone on with."""


class Processes:
    """Processes whose output goes to files, and of which none outlives this one's work."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> float:
        """Wait for a process; return how many seconds it took.

        Args:
            command: In words.
            log: Takes what it prints.
            environment: Of the process.

        Raises:
            StoppedError: It was asked to end, and has said so by its exit code.
            TrainingError: It cannot be started or failed; with the last lines it printed.
        """
        started = time.monotonic()
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    command,
                    stdout=output,
                    stderr=output,
                    stdin=subprocess.DEVNULL,
                    env=environment,
                )
            except OSError as failure:
                raise TrainingError(explain_os_error(failure, Path(command[0]), "run")) from failure
            self._running.add(process)
            if self._stopped:
                process.terminate()
            code = process.wait()
            self._running.discard(process)
        if code and (self._stopped or code in _STOPPED_CODES):
            raise StoppedError(f"stopped: {shlex.join(command)}")
        if code:
            raise TrainingError(
                f"exit code {code} of {shlex.join(command)}, which said:\n{_last_lines(log)}"
            )
        return time.monotonic() - started

    def stop(self) -> None:
        """Ask all to end, and those to come."""
        self._stopped = True
        for process in list(self._running):
            process.terminate()

    def check(self) -> None:
        """Let work in this process end too, once all was asked to.

        Raises:
            StoppedError: It was.
        """
        if self._stopped:
            raise StoppedError("stopped")


@contextlib.contextmanager
def interrupted_by_kill() -> Iterator[None]:
    """Let a polite kill be a Ctrl-C, which asks the processes to end; for the main thread."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _last_lines(log: Path, count: int = 12) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return "\n".join(lines[-count:]) or "nothing"
