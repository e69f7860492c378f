"""Counters of a run: what a step and a validation change."""

from __future__ import annotations

import math

from sharnn.amounts import Amount
from sharnn.train.counters import Counters


def test_skipped_steps_in_a_row_end_with_a_finite_one() -> None:
    counters = Counters()
    for finite in (True, False, False):
        counters.add_step(48, 0.5, finite)
    assert (counters.step, counters.tokens_seen, counters.epoch) == (3, 144, 0.5)
    assert (counters.skipped_steps, counters.skipped_in_a_row) == (2, 2)
    counters.add_step(48, 0.5, finite=True)
    assert (counters.skipped_steps, counters.skipped_in_a_row) == (2, 0)


def test_only_a_lower_finite_score_is_the_best() -> None:
    counters = Counters()
    best = []
    for step, bits in enumerate((math.nan, 3.0, 3.0, math.inf, 2.0, math.nan)):
        counters.step = step
        best.append(counters.add_validation(bits))
    assert best == [False, True, False, False, True, False]
    assert (counters.best_bits_per_byte, counters.best_step) == (2.0, 4)
    assert (counters.last_bits_per_byte, counters.validations_without_best) == (None, 1)


def test_progress_is_measured_against_any_budget() -> None:
    counters = Counters(step=5, tokens_seen=200, epoch=0.25, seconds=30.0)
    budgets = ("10steps", "400tokens", "1epochs", "1m")
    shares = [counters.progress(Amount.parse(text, "x")).budget for text in budgets]
    assert shares == [0.5, 0.5, 0.25, 0.5]
