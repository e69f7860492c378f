"""Training counters, saved in every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sharnn.amounts import Amount, Progress
from sharnn.evaluate.score import smoothed


@dataclass
class Counters:
    """How far a run is, and what happened so far.

    Attributes:
        step: Optimiser steps, skipped ones included.
        tokens_seen: Over all lanes.
        epoch: Passes over the training lanes, with fractions.
        seconds: Wall-clock time of the run so far, validating and saving included.
        skipped_steps: Steps without a finite loss and gradient.
        skipped_in_a_row: Those since the last step with both.
        best_bits_per_byte: Best of all validations.
        best_step: Step of that validation.
        validations_without_best: Validations since then.
        last_bits_per_byte: Of the latest validation; None if it was not finite.
        seconds_validating: Part of `seconds` that was spent on scoring.
        seconds_saving: Part of `seconds` that was spent on writing checkpoints and best models.
        smooth: Smoothed bits per byte of the training steps; None before the first finite one.
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
    smooth: float | None = None

    @property
    def spent(self) -> float:
        """Seconds that were not spent on training."""
        return self.seconds_validating + self.seconds_saving

    def progress(self, budget: Amount) -> Progress:
        """Return the progress in every unit, and its share of `budget`."""
        units = self.seconds, self.step, self.epoch, self.tokens_seen
        return Progress(*units, budget.share_of(Progress(*units)))

    def add_step(
        self, num_tokens: int, epoch: float, finite: bool, bits_per_byte: float | None = None
    ) -> None:
        """Count a step.

        Args:
            num_tokens: Tokens of its segment over all lanes.
            epoch: Passes over the lanes after it.
            finite: Whether loss and gradient were finite; it is a skipped step otherwise.
            bits_per_byte: Its score, which is added to the smoothed one; None if there is none.
        """
        self.step += 1
        self.tokens_seen += num_tokens
        self.epoch = epoch
        self.skipped_steps += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if finite and bits_per_byte is not None:
            self.smooth = smoothed(self.smooth, bits_per_byte, self.step)

    def add_validation(self, bits_per_byte: float) -> bool:
        """Count a validation; return whether it is the best so far."""
        finite, best = math.isfinite(bits_per_byte), self.best_bits_per_byte
        is_best = finite and (best is None or bits_per_byte < best)
        self.last_bits_per_byte = bits_per_byte if finite else None
        self.validations_without_best = 0 if is_best else self.validations_without_best + 1
        if is_best:
            self.best_bits_per_byte, self.best_step = bits_per_byte, self.step
        return is_best

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Counters:
        """Undo `to_dict`."""
        return cls(**values)
