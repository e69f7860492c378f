"""The LSTM equals its definition, in outputs and gradients, in every dtype it runs in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops.definitions import (
    SIZES,
    TOLERANCES,
    assert_dtype_follows,
    assert_equal_with_gradients,
    randn,
    results_of,
)
from sharnn import kernels
from sharnn.ops import FAST, REFERENCE

pytestmark = pytest.mark.usefixtures("path")


def lstm_inputs(lanes: int, tokens: int, dim: int) -> list[Tensor]:
    weights = [randn(4 * dim, dim), randn(4 * dim, dim), randn(4 * dim), randn(4 * dim)]
    return [randn(lanes, tokens, dim), randn(lanes, dim), randn(lanes, dim), *weights]


def joined_lstm(op: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    return lambda x, h, c, *w: torch.cat([t.flatten() for t in op(x, h, c, w)])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 5))
def test_lstm(lanes: int, tokens: int, dim: int) -> None:
    assert_equal_with_gradients(
        joined_lstm(FAST.lstm), joined_lstm(REFERENCE.lstm), lstm_inputs(lanes, tokens, dim)
    )


@settings(max_examples=12)
@given(
    lanes=st.integers(1, 20), tokens=st.integers(1, 5), dim=st.sampled_from([8, 16, 40, 64]),
    variant=st.sampled_from(kernels.variants()),
)  # fmt: skip
def test_the_recurrence_of_every_build(lanes: int, tokens: int, dim: int, variant: str) -> None:
    """Tiles of every number of lanes, whole vectors and cut ones; kernels know no float64."""
    exact = lstm_inputs(lanes, tokens, dim)
    inputs = [x / (dim**0.5 if x.ndim == 2 and x.shape[1] == dim else 1) for x in exact]
    expected = results_of(joined_lstm(REFERENCE.lstm), inputs)
    with kernels.at(variant):
        found = results_of(joined_lstm(FAST.lstm), [x.float() for x in inputs])
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * (1 + theirs.norm())


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_dtype_follows_the_definition(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lanes, tokens, dim = SIZES
    inputs = lstm_inputs(lanes, tokens, dim)
    inputs[3:5] = [weight / dim**0.5 for weight in inputs[3:5]]
    assert_dtype_follows(joined_lstm(FAST.lstm), joined_lstm(REFERENCE.lstm), inputs, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_what_is_no_number_stays_none(dtype: torch.dtype) -> None:
    """A training step is skipped for it, so no kernel may hide it."""
    x, state = torch.zeros(1, 2, 8, dtype=dtype), torch.zeros(1, 8, dtype=dtype)
    x[0, 0, 3] = float("nan")
    wide, bias = torch.eye(8, dtype=dtype).repeat(4, 1), torch.zeros(32, dtype=dtype)
    assert FAST.lstm(x, state, state, [wide, wide, bias, bias])[2].isnan().any()
