"""Schedules are functions of progress alone, in whatever unit the budget has."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharnn.amounts import Progress
from sharnn.config import OptimConfig
from sharnn.optim import lr_factor


def factor_at(config: OptimConfig, progress: Progress) -> float:
    """Return the factor of a step that is too short to matter."""
    return lr_factor(config, progress, progress)


def test_warm_up_counts_the_step_and_decay_what_was_before() -> None:
    config = OptimConfig(warmup="50%", decay="linear", final_lr=0.0)
    steps = [Progress(steps=n, budget=n / 4) for n in range(5)]
    factors = [lr_factor(config, *pair) for pair in itertools.pairwise(steps)]
    assert factors == [0.5 * 1.0, 1.0 * 0.75, 0.5, 0.25]


def test_warm_up_is_linear_from_the_first_step() -> None:
    config = OptimConfig(warmup="4steps", decay="constant")
    factors = [factor_at(config, Progress(steps=step)) for step in (1, 2, 4, 9)]
    assert factors == [0.25, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("warmup", "progress"),
    [
        ("10s", Progress(seconds=5)),
        ("2epochs", Progress(epochs=1)),
        ("1ktokens", Progress(tokens=500)),
        ("10%", Progress(budget=0.05)),
    ],
)
def test_warm_up_in_any_unit(warmup: str, progress: Progress) -> None:
    assert factor_at(OptimConfig(warmup=warmup, decay="constant"), progress) == 0.5


def test_cosine_and_linear_hold_then_fall_to_the_final_rate() -> None:
    for decay, middle in (("cosine", 0.55), ("linear", 0.55)):
        config = OptimConfig(decay=decay, hold="50%", final_lr=0.1)
        assert factor_at(config, Progress(budget=0.5)) == 1.0
        assert factor_at(config, Progress(budget=0.75)) == pytest.approx(middle)
        assert factor_at(config, Progress(budget=1.0)) == pytest.approx(0.1)
        assert factor_at(config, Progress(budget=1.3)) == pytest.approx(0.1)


def test_halving() -> None:
    config = OptimConfig(decay="halving", halve_at=[0.5, 0.9])
    factors = [factor_at(config, Progress(budget=b)) for b in (0.49, 0.5, 0.89, 0.9, 1.0)]
    assert factors == [1.0, 0.5, 0.5, 0.25, 0.25]


@given(st.floats(0, 1.2), st.floats(0, 1.2), st.sampled_from(["cosine", "linear"]))
def test_decay_never_rises(a: float, b: float, decay: str) -> None:
    config = OptimConfig(decay=decay, hold="20%", final_lr=0.05)
    early, late = (factor_at(config, Progress(budget=x)) for x in sorted((a, b)))
    assert 0.05 - 1e-12 <= late <= early <= 1
