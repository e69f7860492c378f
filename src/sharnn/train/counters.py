"""The one object that holds all of a run that is neither weight nor tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sharnn.amounts import Amount, Progress


@dataclass
class Counters:
    """How far a run is, and what it has seen on the way; all of it survives a restart.

    Attributes:
        step: Optimiser steps, skipped ones included.
        tokens_seen: Over all lanes.
        epoch: Passes over the training lanes, fractions included.
        seconds: Wall-clock time of the run so far, validation and saving included.
        skipped_steps: Steps without a finite loss and gradient.
        skipped_in_a_row: Of these, the latest without one between them that went well.
        best_bits_per_byte: Of all validations.
        best_step: When that was.
        validations_without_best: Since then.
        last_bits_per_byte: Of the latest validation.
        seconds_validating: Of `seconds`, those in which it scored.
        seconds_saving: Of `seconds`, those in which it wrote checkpoints and best models.
    """

    step: int = 0
    tokens_seen: int = 0
    epoch: float = 0.0
    seconds: float = 0.0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    best_bits_per_byte: float | None = None
    best_step: int = 0
    validations_without_best: int = 0
    last_bits_per_byte: float | None = None
    seconds_validating: float = 0.0
    seconds_saving: float = 0.0

    @property
    def spent(self) -> float:
        """Seconds that were not spent on training."""
        return self.seconds_validating + self.seconds_saving

    def progress(self, budget: Amount) -> Progress:
        """Return the progress in every unit."""
        plain = Progress(self.seconds, self.step, self.epoch, self.tokens_seen)
        return Progress(
            plain.seconds, plain.steps, plain.epochs, plain.tokens, budget.share_of(plain)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Counters:
        """Undo `to_dict`."""
        return cls(**values)


#: What a share may be short of a whole number by rounding: 0.3 / 0.1 is less than 3.
_ROUNDING = 1e-9


@dataclass
class Cadence:
    """Says when something that happens every so often is due.

    Attributes:
        every: The interval.
        count: How many have passed.
    """

    every: Amount
    count: int = field(default=0)

    def due(self, progress: Progress) -> bool:
        """Whether an interval has ended since the last time; asking counts it."""
        passed = self._passed(progress)
        if passed <= self.count:
            return False
        self.count = passed
        return True

    def go_on(self, count: int, progress: Progress) -> None:
        """Take what had passed before a restart; of a budget that has grown since, less has passed."""
        self.count = min(count, self._passed(progress))

    def _passed(self, progress: Progress) -> int:
        return math.floor(self.every.share_of(progress) + _ROUNDING)
