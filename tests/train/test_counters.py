"""When something that happens every so often is due."""

from __future__ import annotations

from sharnn.amounts import Amount, Progress
from sharnn.train.counters import Cadence


def due_at(every: str, steps: int, start: int = 0, count: int = 0) -> list[int]:
    """Return the steps of a budget at which it is due."""
    cadence = Cadence(Amount.parse(every, "x"))
    cadence.go_on(count, Progress(steps=start, budget=start / steps))
    passed = range(start + 1, steps + 1)
    return [n for n in passed if cadence.due(Progress(steps=n, budget=n / steps))]


def test_a_share_of_the_budget_comes_in_equal_steps() -> None:
    assert due_at("10%", 20) == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert due_at("5steps", 12) == [5, 10]


def test_a_longer_budget_has_its_shares_from_where_it_goes_on() -> None:
    assert due_at("10%", 100, start=20, count=10) == [30, 40, 50, 60, 70, 80, 90, 100]


def test_what_was_due_before_a_restart_still_is() -> None:
    assert due_at("5steps", 12, start=7, count=0) == [8, 10]
