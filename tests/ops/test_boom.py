"""Boom equals its definition, in outputs and gradients, in every dtype it runs in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.definitions import (
    SIZES,
    TOLERANCES,
    assert_dtype_follows,
    assert_equal_with_gradients,
    randn,
    seeded,
)
from sharnn.ops import FAST, REFERENCE, Ops

pytestmark = pytest.mark.usefixtures("path")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(0, 12))
def test_boom(lanes: int, tokens: int, dim: int, extra: int) -> None:
    inputs = [randn(lanes, tokens, dim), randn(dim + extra, dim), randn(dim + extra)]
    assert_equal_with_gradients(FAST.boom, REFERENCE.boom, inputs)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_dtype_follows_the_definition(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lanes, tokens, dim = SIZES
    inputs = [randn(lanes, tokens, dim), randn(3 * dim + 5, dim) / dim**0.5, randn(3 * dim + 5)]
    assert_dtype_follows(FAST.boom, REFERENCE.boom, inputs, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_what_is_no_number_stays_none(dtype: torch.dtype) -> None:
    """A training step is skipped for it, so no kernel may hide it."""
    x, eye, bias = (
        torch.zeros(1, 2, 8, dtype=dtype),
        torch.eye(8, dtype=dtype),
        torch.zeros(8, dtype=dtype),
    )
    x[0, 0, 3] = float("nan")
    assert FAST.boom(x, eye, bias).isnan().any()


@pytest.mark.parametrize("ops", [FAST, REFERENCE])
def test_dropout_keeps_the_mean(ops: Ops) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.ones(1, 4000, 4), torch.eye(4).repeat(2, 1), torch.zeros(8)
    kept = ops.boom(x, weight, bias, 0.0).mean()
    dropped = ops.boom(x, weight, bias, 0.3).mean()
    torch.testing.assert_close(dropped, kept, rtol=0.03, atol=0)


def test_dropout_goes_backward_through_the_mask_it_went_forward() -> None:
    torch.manual_seed(2)
    x, weight, bias = randn(1, 6, 8).requires_grad_(), randn(16, 8), randn(16)
    torch.autograd.gradcheck(lambda x: seeded(FAST.boom, x, weight, bias, 0.4), x)
