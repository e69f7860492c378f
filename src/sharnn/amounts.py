"""Lengths of training as text (`10m`, `5000steps`, `5%`), and how much of one is done."""

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
    """How far a run has come, in every unit that an `Amount` can name.

    Attributes:
        seconds: Wall-clock seconds of the run so far, validation and saving included.
        steps: Optimiser steps taken, skipped ones included.
        epochs: Passes over the training lanes, fractions included.
        tokens: Tokens seen over all lanes.
        budget: Share of the run's budget that is used up, 0 … 1.
    """

    seconds: float = 0.0
    steps: float = 0.0
    epochs: float = 0.0
    tokens: float = 0.0
    budget: float = 0.0


@dataclass(frozen=True)
class Amount:
    """A stretch of training such as `90s`, `10m`, `5000steps`, `3epochs`, `50Mtokens` or `5%`.

    Attributes:
        value: How many, in `unit`; for `budget` a share between 0 and 1.
        unit: What is counted.
    """

    value: float
    unit: AmountUnit

    @classmethod
    def parse(cls, text: str, option: str, *, share: bool = True) -> Amount:
        """Return the amount that `text` names.

        Args:
            text: A number and a unit: `s`, `m`, `h`, `steps`, `epochs`, `tokens` (with `k`, `M` or
                `G` before it) or `%` of the budget.
            option: The setting it comes from, for the error.
            share: Whether `%` may be used (a budget cannot be a share of itself).

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
                raise ConfigError(f"{option} is '{text}': a share of the budget is at most 100%")
            return cls(number / 100, "budget")
        names: dict[str, AmountUnit] = {"step": "steps", "epoch": "epochs", "token": "tokens"}
        return cls(number, names[unit.rstrip("s")])

    def share_of(self, progress: Progress) -> float:
        """Return how much of this amount `progress` has covered; 1 and more means all of it."""
        if self.value == 0:
            return math.inf
        return getattr(progress, self.unit) / self.value
