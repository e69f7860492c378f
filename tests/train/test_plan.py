"""Plans stay within their allowance, and validations read in the time that they get."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharnn.train.plan import (
    Costs,
    Target,
    growing_lengths,
    lengths_of,
    lengths_until,
    make_plan,
)

SECONDS = st.floats(1e-3, 1e3)


@given(SECONDS, SECONDS, SECONDS, SECONDS, st.integers(1, 50), st.integers(1, 50))
def test_a_plan_costs_no_more_than_is_allowed(
    allowance: float, model: float, checkpoint: float, scoring: float, times: int, saves: int
) -> None:
    for known in (scoring, None):
        costs = Costs(model, checkpoint, scoring=known, least_scoring=scoring)
        plan = make_plan(allowance, costs, Target(times), Target(saves))
        assert 1 <= plan.validations <= times
        assert 1 <= plan.checkpoints <= saves
        once = plan.validations == plan.checkpoints == 1
        assert plan.seconds <= allowance * (1 + 1e-9) or once


@given(SECONDS, SECONDS, SECONDS, st.integers(1, 20), st.integers(1, 20))
def test_what_was_asked_for_happens_whatever_it_costs(
    model: float, checkpoint: float, scoring: float, times: int, saves: int
) -> None:
    costs = Costs(model, checkpoint, scoring=scoring)
    plan = make_plan(0.0, costs, Target(times, exact=True), Target(saves, exact=True))
    assert (plan.validations, plan.checkpoints) == (times, saves)
    assert plan.seconds == pytest.approx(times * (model + scoring) + saves * checkpoint)


def test_what_is_cheap_happens_as_often_as_the_recipe_says() -> None:
    plan = make_plan(30.0, Costs(0.1, 0.5, scoring=1.0), Target(10), Target(5))
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
