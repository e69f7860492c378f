"""What can go wrong, as the user should hear of it.

Every error names the file or option, what was found there and what to do about it. The command line
prints the message alone (`--debug` adds the traceback) and leaves with the class's `exit_code`.
"""

from __future__ import annotations


class SharnnError(Exception):
    """Base of all errors that sharnn raises on purpose; exit code 1."""

    exit_code = 1


class ConfigError(SharnnError, ValueError):
    """A setting, recipe or command line that cannot be meant; exit code 2."""

    exit_code = 2


class DataError(SharnnError):
    """A text or prepared corpus that is missing, unreadable, too short or altered."""


class CheckpointError(SharnnError):
    """A model folder or run folder that is missing, incomplete, altered or of another kind."""


class StreamError(SharnnError):
    """A coded or generated stream that cannot go on."""


class TrainingError(SharnnError):
    """A training run that cannot go on: no finite loss, no memory, no room on the disk."""
