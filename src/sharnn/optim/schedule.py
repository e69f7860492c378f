"""Learning-rate schedules as pure functions of progress."""

from __future__ import annotations

import math

from sharnn.amounts import Amount, Progress
from sharnn.config import OptimConfig


def warmup_factor(share: float) -> float:
    """Return the linear ramp at `share` of the warm-up, 1 from its end on."""
    return min(share, 1.0)


def cosine_factor(share: float, final: float) -> float:
    """Return half a cosine from 1 at `share` 0 to `final` at 1."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))


def linear_factor(share: float, final: float) -> float:
    """Return a straight line from 1 at `share` 0 to `final` at 1."""
    return 1 - (1 - final) * min(max(share, 0.0), 1.0)


def halving_factor(share: float, halve_at: list[float]) -> float:
    """Return ½ to the number of `halve_at` that `share` of the budget has reached."""
    return 0.5 ** sum(share >= point for point in halve_at)


def lr_factor(config: OptimConfig, before: Progress, after: Progress) -> float:
    """Return what the learning rate of a step is multiplied by.

    Warm-up, then the full rate until the end of the hold, then the decay over what is left of the
    budget: in steps, epochs, tokens or seconds, whichever the budget is given in.

    Args:
        config: The schedule's settings.
        before: How far the run is before the step; what the decay counts, so that the last step still
            moves something.
        after: How far it will be; what the warm-up counts, so that the first of n steps has 1 / n of
            the rate and not 0.
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
