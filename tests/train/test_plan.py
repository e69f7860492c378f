"""A budget in time is for learning: validating and saving take 5% of it at most, and it is kept."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sharnn.amounts import Progress
from sharnn.config import TrainConfig
from sharnn.train.plan import (
    OVERHEAD,
    Pace,
    Prices,
    Wish,
    growing_lengths,
    lengths_of,
    lengths_until,
    make_plan,
)

SECONDS = st.floats(1e-3, 1e3)
LANES, STEP_TOKENS = 16, 4096


@given(SECONDS, SECONDS, SECONDS, SECONDS, st.integers(1, 50), st.integers(1, 50))
def test_a_plan_costs_no_more_than_is_allowed(
    allowance: float, model: float, checkpoint: float, scoring: float, times: int, saves: int
) -> None:
    for known in (scoring, None):
        prices = Prices(model, checkpoint, scoring=known, least_scoring=scoring)
        plan = make_plan(allowance, prices, Wish(times), Wish(saves))
        assert 1 <= plan.validations <= times
        assert 1 <= plan.checkpoints <= saves
        once = plan.validations == plan.checkpoints == 1
        assert plan.seconds <= allowance * (1 + 1e-9) or once


@given(SECONDS, SECONDS, SECONDS, st.integers(1, 20), st.integers(1, 20))
def test_what_was_asked_for_happens_whatever_it_costs(
    model: float, checkpoint: float, scoring: float, times: int, saves: int
) -> None:
    prices = Prices(model, checkpoint, scoring=scoring)
    plan = make_plan(0.0, prices, Wish(times, exact=True), Wish(saves, exact=True))
    assert (plan.validations, plan.checkpoints) == (times, saves)
    assert plan.seconds == pytest.approx(times * (model + scoring) + saves * checkpoint)


def test_what_is_cheap_happens_as_often_as_the_recipe_says() -> None:
    plan = make_plan(30.0, Prices(0.1, 0.5, scoring=1.0), Wish(10), Wish(5))
    assert (plan.validations, plan.checkpoints, plan.scoring) == (10, 5, 1.0)


@given(st.integers(1, 5000))
def test_lengths_make_up_what_was_read(rows: int) -> None:
    lengths = list(lengths_of(rows))
    assert sum(lengths) == rows
    assert lengths[:-1] == list(itertools.islice(growing_lengths(), len(lengths) - 1))


@given(st.floats(1e-6, 1.0), st.floats(0.01, 100.0))
def test_reading_ends_in_time_where_one_length_takes_less(token: float, seconds: float) -> None:
    taken = [0.0]
    for read, length in enumerate(lengths_until(seconds, lambda: sum(taken)), start=1):
        taken.append(token * length)
        if read > 1_000:
            break
    assert sum(taken) <= max(seconds * (1 + 1e-9), 16 * token)


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
    now: float = 0.0
    spent: float = 0.0
    steps: int = 0
    rows: list[int] = field(default_factory=list)
    scored: list[float] = field(default_factory=list)
    saved: int = 0
    shares: list[float] = field(default_factory=list)

    def progress(self, pace: Pace) -> Progress:
        plain = Progress(self.now, self.steps, 0.0, STEP_TOKENS * self.steps)
        share = pace.training(plain, self.spent).share_of(plain)
        return Progress(self.now, self.steps, 0.0, STEP_TOKENS * self.steps, share)

    def run(self, pace: Pace) -> None:
        pace.model_bytes, pace.checkpoint_bytes = 4_000_000, 111_000_000
        while not pace.is_over(self.progress(pace), self.spent):
            self.shares.append(self.progress(pace).budget)
            self.now += self.step
            self.steps += 1
            pace.took_step(self.step)
            if pace.validation_due(self.progress(pace), self.spent):
                self.validate(pace)
            if pace.checkpoint_due(self.progress(pace), self.spent):
                self.save(pace)
        self.validate(pace)
        self.save(pace)

    def validate(self, pace: Pace) -> None:
        before, rows, most = self.now, 0, pace.validation_tokens // LANES
        lengths = pace.lengths(self.progress(pace), self.spent, lambda: self.now)
        self.now += self.start
        for length in lengths:
            if rows == most:
                break
            length = min(length, most - rows)
            self.now += self.token * length * LANES
            rows += length
        self.rows.append(rows)
        self.scored.append(self.now)
        self.spent += self.now - before
        pace.validated(rows, self.now - before, self.now)
        self.now += self.model
        self.spent += self.model
        pace.saved_model(self.model, self.now)

    def save(self, pace: Pace) -> None:
        self.now += self.checkpoint
        self.spent += self.checkpoint
        self.saved += 1
        pace.saved_checkpoint(self.checkpoint, self.now)


def pace_of(budget: float, tokens: int = 65_536, **train: object) -> Pace:
    config = TrainConfig(
        **{
            "budget": f"{budget:.3f}s",
            "validate_every": "10%",
            "validation_tokens": tokens,
            **train,
        }
    )
    return Pace(config, STEP_TOKENS, tokens)


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
def test_whatever_the_machine_the_budget_is_for_learning(
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
    # By how much the only checkpoint misses its estimate, a third of a second, nobody can know.
    assert machine.spent <= 1.15 * allowed + max(checkpoint - 0.33, 0)
    assert machine.now <= budget + max(0.15 * allowed, checkpoint)
    assert machine.now >= budget - 2 * machine.step - allowed - max(0.37 - checkpoint, 0)
    assert len(set(machine.rows)) == 1, "scores of one run are of the same tokens"
    assert machine.saved >= 1
    assert 0.9 <= machine.shares[-1] <= 1, "the schedule comes to its end"
