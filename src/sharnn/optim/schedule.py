"""Learning-rate schedules as pure functions of the progress of a run."""

from __future__ import annotations

import math

from sharnn.amounts import Amount, Progress
from sharnn.config import OptimConfig


def warmup_factor(share: float) -> float:
    """Return the linear ramp at `share` of the warm-up, and 1 after its end."""
    return min(share, 1.0)


def cosine_factor(share: float, final: float) -> float:
    """Return a half cosine from 1 at `share` 0 to `final` at `share` 1."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))


def linear_factor(share: float, final: float) -> float:
    """Return a straight line from 1 at `share` 0 to `final` at `share` 1."""
    return 1 - (1 - final) * min(max(share, 0.0), 1.0)


def halving_factor(share: float, halve_at: list[float]) -> float:
    """Return ½ to the power of the number of points in `halve_at` that `share` has reached."""
    return 0.5 ** sum(share >= point for point in halve_at)


def lr_factor(config: OptimConfig, before: Progress, after: Progress) -> float:
    """Return the factor on the learning rate of a step.

    The schedule is a warm-up, then the full rate until the end of the hold, then a decay over the rest of
    the budget. Progress is measured in the unit of the budget: steps, epochs, tokens or seconds.

    Args:
        config: The schedule's settings.
        before: Progress before the step. The decay uses it, so that the last step still changes weights.
        after: Progress after the step. The warm-up uses it, so that the first of n warm-up steps has
            1 / n of the rate and not 0.
    """
    factor = warmup_factor(Amount.parse(config.warmup, "optim.warmup").share_of(after))
    hold = Amount.parse(config.hold, "optim.hold").value
    decayed = (before.budget - hold) / (1 - hold) if hold < 1 else 0.0
    if config.decay == "cosine":
        factor *= cosine_factor(decayed, config.final_lr)
    elif config.decay == "linear":
        factor *= linear_factor(decayed, config.final_lr)
    elif config.decay == "halving":
        factor *= halving_factor(before.budget, config.halve_at)
    return factor
