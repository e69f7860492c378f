"""Filters keep what they say, draws follow the distribution and the seed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharnn.errors import ConfigError, StreamError
from sharnn.generation.sampling import (
    PENALTY_TOKENS,
    Sampling,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
    sample,
    sample_together,
)

LOGITS = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).log()


def kept(logits: torch.Tensor) -> list[int]:
    return logits.isfinite().nonzero().flatten().tolist()


def test_filters() -> None:
    assert kept(keep_top_k(LOGITS, 2)) == [0, 1]
    assert kept(keep_top_k(LOGITS, 99)) == [0, 1, 2, 3, 4]
    assert kept(keep_top_p(LOGITS, 0.6)) == [0, 1]  # the token that crosses is kept
    assert kept(keep_top_p(LOGITS, 0.01)) == [0]
    assert kept(keep_top_p(LOGITS, 1.0)) == [0, 1, 2, 3, 4]
    assert kept(keep_min_p(LOGITS, 0.25)) == [0, 1, 2]


@given(st.integers(1, 6))
def test_ties_do_not_widen_top_k(k: int) -> None:
    assert len(kept(keep_top_k(torch.zeros(6), k))) == k


def test_repetition_penalty_lowers_what_was_said() -> None:
    logits = torch.tensor([2.0, -2.0, 1.0])
    assert penalise_repetition(logits, [0, 1, 0], 2.0).tolist() == [1.0, -4.0, 1.0]
    assert penalise_repetition(logits, [], 2.0) is logits


def test_draws_follow_the_distribution() -> None:
    rng = torch.Generator().manual_seed(0)
    count = 4000
    draws = torch.tensor([sample(LOGITS, Sampling(temperature=1.0), rng) for _ in range(count)])
    observed = torch.bincount(draws, minlength=5) / count
    spread = (LOGITS.exp() * (1 - LOGITS.exp()) / count).sqrt()
    assert ((observed - LOGITS.exp()).abs() < 4 * spread).all()


@pytest.mark.parametrize("limit", [{"temperature": 1e-40}, {"top_p": 1e-50}, {"min_p": 1e-50}])
def test_settings_at_their_limits_still_draw(limit: dict[str, float]) -> None:
    logits = torch.tensor([90.0, 100.0, -torch.inf])
    drawn = sample(logits, Sampling(**limit), torch.Generator().manual_seed(0))
    assert drawn == 1


def test_zero_temperature_takes_the_likeliest() -> None:
    rng = torch.Generator().manual_seed(0)
    assert {sample(LOGITS, Sampling(temperature=0), rng) for _ in range(9)} == {0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": 0.0}, "min_p is 0.0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"temperature": 0, "top_k": 3}, "top_k does nothing at temperature 0"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**settings)


def test_the_penalty_looks_at_recent_tokens_only() -> None:
    rng, greedy = torch.Generator(), Sampling(temperature=0, repetition_penalty=9.0)
    logits = torch.tensor([2.0, 1.0])
    assert sample(logits, greedy, rng, [0]) == 1
    assert sample(logits, greedy, rng, [0] + [1] * PENALTY_TOKENS) == 0


def test_filters_join() -> None:
    """Each filter works on what the one before has left."""
    rng = torch.Generator().manual_seed(0)
    narrow = Sampling(temperature=1.0, top_k=3, min_p=0.35, top_p=0.65)
    assert {sample(LOGITS, narrow, rng) for _ in range(200)} == {0}
    wider = Sampling(temperature=1.0, top_k=3, min_p=0.35)
    assert {sample(LOGITS, wider, rng) for _ in range(200)} == {0, 1}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_told(bad: float) -> None:
    with pytest.raises(StreamError, match="largest logit is"):
        sample(torch.tensor([0.0, bad]), Sampling(), torch.Generator())


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0),
        Sampling(top_k=5, top_p=0.9, min_p=0.02, repetition_penalty=1.3),
    ],
)
def test_lanes_draw_together_what_each_draws_alone(sampling: Sampling) -> None:
    logits_BV = 3 * torch.randn(7, 40, generator=torch.Generator().manual_seed(1))
    histories = [list(range(lane)) for lane in range(7)]
    together = sample_together(logits_BV, sampling, seeded(7), histories)
    alone = [
        sample(logits_V, sampling, rng, history)
        for logits_V, rng, history in zip(logits_BV, seeded(7), histories, strict=True)
    ]
    assert together == alone


def seeded(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@given(
    st.lists(st.floats(-30, 30) | st.just(-math.inf), min_size=2, max_size=50),
    st.floats(0, 1, exclude_max=True),
)
def test_no_number_draws_what_has_no_probability(logits: list[float], number: float) -> None:
    logits_BV = torch.tensor([[0.0, *logits, -math.inf]])
    numbers = [number, 0.0, 1 - 2**-53]
    drawn = draw(logits_BV, torch.tensor([numbers], dtype=torch.float64))[0]
    assert logits_BV[0, drawn].isfinite().all()
