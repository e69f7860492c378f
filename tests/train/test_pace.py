"""Validating and saving take at most 5% of a time budget, and the budget is kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sharnn.amounts import Amount, Progress
from sharnn.config import TrainConfig
from sharnn.train.counters import Counters
from sharnn.train.pace import OVERHEAD, Cadence, Pace

LANES, STEP_TOKENS, VALIDATION_TOKENS = 16, 4096, 65_536


def due_at(every: str, steps: int, start: int = 0, count: int = 0) -> list[int]:
    """Return the steps of a budget at which something is due."""
    cadence = Cadence(Amount.parse(every, "x"))
    cadence.resume(count, Progress(steps=start, budget=start / steps))
    passed = range(start + 1, steps + 1)
    return [n for n in passed if cadence.due(Progress(steps=n, budget=n / steps))]


def test_a_share_of_the_budget_is_due_at_equal_intervals() -> None:
    assert due_at("10%", 20) == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert due_at("5steps", 12) == [5, 10]


def test_a_longer_budget_has_its_shares_from_the_resume_on() -> None:
    assert due_at("10%", 100, start=20, count=10) == [30, 40, 50, 60, 70, 80, 90, 100]


def test_what_was_due_before_a_resume_still_is() -> None:
    assert due_at("5steps", 12, start=7, count=0) == [8, 10]


@dataclass
class Machine:
    """Runs a budget with costs of its own, as the trainer does; counts what that took.

    Attributes:
        step: Seconds of a step.
        token: Seconds of scoring a token.
        start: Seconds that a validation takes before it reads.
        model: Seconds of saving a best model.
        checkpoint: Seconds of saving everything.
    """

    step: float
    token: float
    start: float
    model: float
    checkpoint: float
    counters: Counters = field(default_factory=Counters)
    rows: list[int] = field(default_factory=list)
    saved: int = 0
    shares: list[float] = field(default_factory=list)

    def run(self, pace: Pace) -> None:
        counters = self.counters
        pace.model_bytes, pace.checkpoint_bytes = 4_000_000, 111_000_000
        while not pace.is_over(counters):
            self.shares.append(pace.progress(counters).budget)
            counters.seconds += self.step
            counters.add_step(STEP_TOKENS, 0.0, finite=True)
            pace.took_step(self.step)
            if pace.validation_due(counters):
                self.validate(pace)
            if pace.checkpoint_due(counters):
                self.save(pace)
        self.validate(pace)
        self.save(pace)

    def validate(self, pace: Pace) -> None:
        counters, rows, most = self.counters, 0, VALIDATION_TOKENS // LANES
        before = counters.seconds
        lengths = pace.lengths(counters, lambda: counters.seconds)
        counters.seconds += self.start
        for length in lengths:
            if rows == most:
                break
            length = min(length, most - rows)
            counters.seconds += self.token * length * LANES
            rows += length
        self.rows.append(rows)
        seconds = counters.seconds - before
        counters.seconds_validating += seconds
        pace.validated(rows, seconds, counters.seconds)
        counters.seconds += self.model
        counters.seconds_saving += self.model
        pace.saved_model(self.model, counters.seconds)

    def save(self, pace: Pace) -> None:
        self.counters.seconds += self.checkpoint
        self.counters.seconds_saving += self.checkpoint
        self.saved += 1
        pace.saved_checkpoint(self.checkpoint, self.counters.seconds)


def pace_of(budget: float, **train: object) -> Pace:
    config = TrainConfig(budget=f"{budget:.3f}s", **train)
    return Pace(config, STEP_TOKENS, VALIDATION_TOKENS)


@settings(max_examples=300)
@given(
    budget=st.floats(10, 10_000),
    step=st.floats(0.001, 0.02),
    token=st.floats(1e-8, 1e-3),
    start=st.floats(0, 0.1),
    model=st.floats(0.001, 1),
    checkpoint=st.floats(0.001, 10),
    every=st.sampled_from(["1%", "10%", "30s", "50steps", "1ktokens"]),
)
def test_a_time_budget_is_kept_on_any_machine(
    budget: float,
    step: float,
    token: float,
    start: float,
    model: float,
    checkpoint: float,
    every: str,
) -> None:
    """A step takes up to 2% of the budget; validating and saving once must be possible at all."""
    first = start + LANES * 16 * token
    allowed = OVERHEAD * budget
    assume(3 * first + 2 * model + checkpoint < 0.8 * allowed)
    machine = Machine(step * budget, token, start, model, checkpoint)
    pace = pace_of(budget, validate_every=every, checkpoint_every="60s")
    machine.run(pace)
    # Not known in advance: by how much the only checkpoint exceeds its estimate, a third of a second.
    assert machine.counters.spent <= 1.15 * allowed + max(checkpoint - 0.33, 0)
    assert machine.counters.seconds <= budget + max(0.15 * allowed, checkpoint)
    assert machine.counters.seconds >= budget - 2 * machine.step - allowed - max(
        0.37 - checkpoint, 0
    )
    assert len(set(machine.rows)) == 1, "scores of one run are of the same tokens"
    assert machine.saved >= 1
    assert 0.9 <= machine.shares[-1] <= 1, "the schedule comes to its end"
