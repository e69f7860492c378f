"""How many validations and checkpoints a time budget can pay for, and how a validation reads in time.

All of it is arithmetic on seconds that were measured elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: Validations to plan with before the cost of one is known.
_FEW_VALIDATIONS = 4
#: Tokens of a lane that a validation reads at once, at first and at most.
_FIRST_LENGTH, _LENGTH = 16, 256


@dataclass(frozen=True)
class Target:
    """How often something should still happen, the last time included.

    Attributes:
        times: As the recipe says.
        exact: Whether it happens that often whatever it costs; otherwise at most that often.
    """

    times: int
    exact: bool = False


@dataclass(frozen=True)
class Costs:
    """Costs in seconds.

    Attributes:
        model: Saving a best model.
        checkpoint: Saving a checkpoint.
        checkpoint_margin: Factor by which a checkpoint may cost more: above 1 until it was measured.
        scoring: Scoring in one validation; None before the first.
        least_scoring: What a first validation should get; it gets less only if there is no time.
        most_scoring: Upper limit for a first validation of all tokens.
    """

    model: float
    checkpoint: float
    checkpoint_margin: float = 1.0
    scoring: float | None = None
    least_scoring: float = 0.0
    most_scoring: float = math.inf


@dataclass(frozen=True)
class Plan:
    """What will still happen.

    Attributes:
        validations: Number of validations, the last included.
        checkpoints: Number of checkpoints, the last included.
        scoring: Seconds that one validation may take, without saving a best model.
        seconds: Seconds that all of it takes.
    """

    validations: int
    checkpoints: int
    scoring: float
    seconds: float


def make_plan(allowance: float, costs: Costs, validations: Target, checkpoints: Target) -> Plan:
    """Return the most validations and checkpoints that fit; the last of each happens in any case.

    Earlier checkpoints get at most half of what the last validation and checkpoint leave, because only
    a killed run needs them. Every validation is assumed to find a new best model.

    Args:
        allowance: Seconds that may still be spent.
        costs: Of each of them.
        validations: 0 times if the text is too short.
        checkpoints: At least once.
    """
    saves = checkpoints.times
    if not checkpoints.exact:
        known = costs.least_scoring if costs.scoring is None else costs.scoring
        last = known + costs.model if validations.times else 0.0
        spare = (allowance - last - costs.checkpoint) / 2
        cost = costs.checkpoint_margin * costs.checkpoint
        saves = _affordable(spare + cost, cost, saves)
    left = allowance - saves * costs.checkpoint
    times, scoring = validations.times, costs.scoring
    if times == 0:
        return Plan(0, saves, 0.0, saves * costs.checkpoint)
    if scoring is None:
        if not validations.exact:
            most = min(times, _FEW_VALIDATIONS)
            times = _affordable(left, costs.least_scoring + costs.model, most)
        least = costs.least_scoring if validations.exact else 0.0
        scoring = max(min(left / times - costs.model, costs.most_scoring), least)
    elif not validations.exact:
        times = _affordable(left, scoring + costs.model, times)
    seconds = saves * costs.checkpoint + times * (scoring + costs.model)
    return Plan(times, saves, scoring, seconds)


def _affordable(seconds: float, cost: float, most: int) -> int:
    """Return how often `cost` fits in `seconds`, at least once and at most `most` times."""
    if cost <= 0:
        return most
    return max(min(math.floor(seconds / cost), most), 1)


# --------------------------------------------------------------------- lengths that a validation reads


def growing_lengths() -> Iterator[int]:
    """Yield how many tokens of a lane to read at once: few at first, to measure what they cost."""
    yield _FIRST_LENGTH
    length = _FIRST_LENGTH
    while True:
        yield length
        length = min(2 * length, _LENGTH)


def lengths_of(rows: int) -> Iterator[int]:
    """Yield growing lengths whose sum is `rows`; the last one is cut if necessary."""
    for length in growing_lengths():
        yield min(length, rows)
        rows -= length
        if rows <= 0:
            return


def lengths_until(end: float, clock: Callable[[], float]) -> Iterator[int]:
    """Yield growing lengths, at least one, as long as reading the next one will probably end in time.

    Args:
        end: When to end, on `clock`.
        clock: Returns seconds; between two lengths it advances by the time that reading took.
    """
    before, length = clock(), 0
    for following in growing_lengths():
        now = clock()
        if length and now + (now - before) * following / length > end:
            return
        before, length = now, following
        yield following
