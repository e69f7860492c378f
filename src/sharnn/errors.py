"""Exceptions with messages for the user.

Every message names the file or argument, what was found there and what to do about it. The command line
prints the message alone (`--debug` adds the traceback) and exits with the class's `exit_code`.
"""

from __future__ import annotations

#: Exit code of a process that Ctrl-C, or a signal that is treated alike, has stopped.
INTERRUPTED = 130


class SharnnError(Exception):
    """Base class of all errors that sharnn raises on purpose; exit code 1."""

    exit_code = 1


class ConfigError(SharnnError, ValueError):
    """An invalid setting, argument, recipe or command line; exit code 2."""

    exit_code = 2


class DataError(SharnnError):
    """A text or prepared corpus that is missing, unreadable, too short or altered."""


class CheckpointError(SharnnError):
    """A model folder or run folder that is missing, incomplete, altered or of the wrong kind."""


class StreamError(SharnnError):
    """A coded or generated stream that cannot continue."""


class TrainingError(SharnnError):
    """A training run that cannot continue: the loss is not finite, or memory or disk space is missing."""
