"""Lengths of training, such as `10m`, `5000steps` and `5%`, and the progress of a run in each unit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from sharnn.errors import ConfigError

_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMG]?)\s*(steps?|epochs?|tokens?|%|s|m|h)\s*")
_SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
AmountUnit = Literal["seconds", "steps", "epochs", "tokens", "budget"]


@dataclass(frozen=True)
class Progress:
    """Progress of a run in every unit of an `Amount`.

    Attributes:
        seconds: Wall-clock seconds of the run so far, validation and saving included.
        steps: Optimiser steps taken, skipped ones included.
        epochs: Passes over the training lanes, fractions included.
        tokens: Tokens seen over all lanes.
        budget: Fraction of the run's budget that is spent, 0 to 1.
    """

    seconds: float = 0.0
    steps: float = 0.0
    epochs: float = 0.0
    tokens: float = 0.0
    budget: float = 0.0


@dataclass(frozen=True)
class Amount:
    """A length of training, such as `90s`, `10m`, `5000steps`, `3epochs`, `50Mtokens` or `5%`.

    Attributes:
        value: Number of units; for `budget` a fraction between 0 and 1.
        unit: The unit.
    """

    value: float
    unit: AmountUnit

    @classmethod
    def parse(cls, text: str, option: str, *, share: bool = True) -> Amount:
        """Return the amount that a text describes.

        Args:
            text: A number and a unit: `s`, `m`, `h`, `steps`, `epochs`, `tokens` (with `k`, `M` or
                `G` before it) or `%` of the budget.
            option: Name of the setting, for the error message.
            share: Whether `%` is allowed; it is not for a budget itself.

        Raises:
            ConfigError: `text` has no such form.
        """
        match = _AMOUNT.fullmatch(text)
        units = "90s, 10m, 2h, 5000steps, 3epochs, 50Mtokens" + (", 5%" if share else "")
        if match is None or (match[3] == "%" and not share):
            raise ConfigError(f"{option} is '{text}': give a number and a unit, such as {units}")
        number, scale, unit = float(match[1]) * _SCALE[match[2]], match[2], match[3]
        if scale and unit in ("s", "m", "h", "%"):
            raise ConfigError(
                f"{option} is '{text}': {scale} goes with steps and tokens, not {unit}"
            )
        if unit in _SECONDS:
            return cls(number * _SECONDS[unit], "seconds")
        if unit == "%":
            if number > 100:
                raise ConfigError(
                    f"{option} is '{text}': a percentage of the budget is at most 100%"
                )
            return cls(number / 100, "budget")
        names: dict[str, AmountUnit] = {"step": "steps", "epoch": "epochs", "token": "tokens"}
        return cls(number, names[unit.rstrip("s")])

    def share_of(self, progress: Progress) -> float:
        """Return the fraction of this amount that a run has completed; 1 and more is all of it."""
        if self.value == 0:
            return math.inf
        return getattr(progress, self.unit) / self.value
