"""Child processes of an experiment, which never outlive it.

The command line imports this module before all others of a comparison, so it must not import torch.
"""

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
    """A run was stopped before it was complete. It can be resumed if it has saved a checkpoint."""


class Processes:
    """Child processes that print to files, and that can be stopped together from another thread."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> float:
        """Run a process to its end; return how many seconds it took.

        Args:
            command: Program and arguments.
            log: File for its output.
            environment: Its environment variables.

        Raises:
            StoppedError: It was stopped.
            TrainingError: It could not be started, or failed; with the last lines of its output.
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
                f"exit code {code} of {shlex.join(command)}, which printed:\n{_last_lines(log)}"
            )
        return time.monotonic() - started

    def stop(self) -> None:
        """Stop all processes, also those that are started later."""
        self._stopped = True
        for process in list(self._running):
            process.terminate()

    def check(self) -> None:
        """Stop work inside this process too; long work calls this now and then.

        Raises:
            StoppedError: `stop` was called.
        """
        if self._stopped:
            raise StoppedError("stopped")


@contextlib.contextmanager
def interrupted_by_kill() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C: raise KeyboardInterrupt. Only the main thread can use this."""

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
