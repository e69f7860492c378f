"""Attention equals its definition, in outputs and gradients, in every dtype it runs in."""

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
    seeded,
)
from sharnn.ops import FAST, REFERENCE, Ops
from sharnn.ops.attention import _QUERY_BLOCK

pytestmark = pytest.mark.usefixtures("path")


def attend(op: Callable[..., Tensor], memory: Tensor, *settings: object) -> Callable[..., Tensor]:
    """Return attention as a function of what takes gradients."""

    def of_inputs(query: Tensor, current: Tensor, key_gate: Tensor, value_gate: Tensor) -> Tensor:
        rows = torch.cat([memory.to(current.dtype), current.detach()], dim=1)
        return op(query, rows, current, key_gate, value_gate, *settings)

    return of_inputs


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.one_of(st.none(), st.lists(st.integers(0, 9), min_size=2, max_size=2)),
    num_tokens=st.integers(1, 12),
    num_memory=st.integers(0, 9),
    window=st.integers(1, 25),
    block=st.sampled_from([3, _QUERY_BLOCK]),
    reads_next=st.booleans(),
)
def test_attention(
    lengths: list[int] | None,
    num_tokens: int,
    num_memory: int,
    window: int,
    block: int,
    reads_next: bool,
) -> None:
    lengths = lengths and [min(n, num_memory) for n in lengths]
    memory = randn(2, num_memory, 4)
    inputs = [randn(2, num_tokens, 4), randn(2, num_tokens, 4), randn(4), randn(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharnn.ops.attention._QUERY_BLOCK", block)
        assert_equal_with_gradients(
            attend(FAST.attention, memory, window, lengths, 0.0, reads_next),
            attend(REFERENCE.attention, memory, window, lengths, 0.0, reads_next),
            inputs,
        )


@pytest.mark.parametrize("together", [1, 2, 3])
def test_lanes_may_go_together(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    """In batched products: all of them on a GPU, on a CPU as many as the cache holds scores of."""
    memory = randn(3, 9, 4)
    inputs = [randn(3, 7, 4), randn(3, 7, 4), randn(4), randn(4)]
    monkeypatch.setattr("sharnn.ops.attention._SCORES_TOGETHER", together * 7 * 14)
    for lengths in (None, [9, 0, 4]):
        assert_equal_with_gradients(
            attend(FAST.attention, memory, 8, lengths),
            attend(REFERENCE.attention, memory, 8, lengths),
            inputs,
        )


@pytest.mark.parametrize("reads_next", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_dtype_follows_the_definition(reads_next: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lanes, tokens, dim = SIZES
    settings = randn(lanes, 70, dim), 60, (70, 10, 0), 0.0, reads_next
    fast, slow = attend(FAST.attention, *settings), attend(REFERENCE.attention, *settings)
    inputs = [randn(lanes, tokens, dim), randn(lanes, tokens, dim), randn(dim), randn(dim)]
    assert_dtype_follows(fast, slow, inputs, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_what_is_no_number_stays_none(dtype: torch.dtype) -> None:
    """A training step is skipped for it, so no kernel may hide it."""
    x, gate = torch.zeros(1, 2, 8, dtype=dtype), torch.ones(8, dtype=dtype)
    x[0, 0, 3] = float("nan")
    assert FAST.attention(x, x, x, gate, gate, 5).isnan().any()


@pytest.mark.parametrize("ops", [FAST, REFERENCE])
def test_a_head_that_reads_next_reads_what_followed(ops: Ops) -> None:
    rows, gate = torch.eye(4)[None], torch.ones(4)
    nothing, like_0, like_1 = -torch.ones(4), rows[0, 0], rows[0, 1]
    query = 100 * torch.stack([like_0, nothing, like_0, like_1])[None]
    mixed = ops.attention(query, rows, rows, gate, gate, 4, None, 0.0, True)[0]
    # Position 0 has no row before it, and position 1 none that is like it.
    expected = torch.stack([torch.zeros(4), torch.zeros(4), rows[0, 1], rows[0, 2]])
    torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize("ops", [FAST, REFERENCE])
def test_dropout_keeps_the_mean(ops: Ops) -> None:
    torch.manual_seed(0)
    rows, gate = torch.ones(1, 2000, 4), torch.ones(4)
    mixed = ops.attention(torch.zeros(1, 2000, 4), rows, rows, gate, gate, 5000, None, 0.3).mean()
    torch.testing.assert_close(mixed, torch.tensor(1.0), rtol=0.03, atol=0)


def test_dropout_goes_backward_through_the_mask_it_went_forward() -> None:
    torch.manual_seed(2)
    x, fixed, gates = randn(1, 6, 8).requires_grad_(), randn(1, 6, 8), (randn(8), randn(8))
    mix = attend(FAST.attention, randn(1, 5, 8), 7, None, 0.4)
    torch.autograd.gradcheck(lambda query: seeded(mix, query, fixed, *gates), x)
    # Of the rows alone: as if what stands in `rows_BKD` followed them, which is what it does.
    query = x.detach()

    def of_rows(current: Tensor) -> Tensor:
        return seeded(mix, query, current, *gates)

    current, step = fixed.clone().requires_grad_(), 1e-6 * randn(1, 6, 8)
    weight = randn(1, 6, 8)
    (gradient,) = torch.autograd.grad((of_rows(current) * weight).sum(), current)
    slope = ((of_rows(fixed + step) - of_rows(fixed - step)) * weight).sum() / 2
    torch.testing.assert_close((gradient * step).sum(), slope, rtol=1e-6, atol=1e-12)
