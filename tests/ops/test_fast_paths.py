"""Every fast path equals its definition, in outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharnn.ops import FAST, REFERENCE
from sharnn.ops.attention import _QUERY_BLOCK
from sharnn.ops.reference import reach_mask


def assert_equal_with_gradients(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    results = []
    for op in (fast, slow):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = op(*leaves)
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        gradients = torch.autograd.grad((out * weight).sum(), leaves)
        results.append((out, *gradients))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(0, 12))
def test_boom(lanes: int, tokens: int, dim: int, extra: int) -> None:
    inputs = [randn(lanes, tokens, dim), randn(dim + extra, dim), randn(dim + extra)]
    assert_equal_with_gradients(FAST.boom, REFERENCE.boom, inputs)


@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 5))
def test_lstm(lanes: int, tokens: int, dim: int) -> None:
    weights = [randn(4 * dim, dim), randn(4 * dim, dim), randn(4 * dim), randn(4 * dim)]
    inputs = [randn(lanes, tokens, dim), randn(lanes, dim), randn(lanes, dim), *weights]

    def joined(op: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Callable[..., Tensor]:
        return lambda x, h, c, *w: torch.cat([t.flatten() for t in op(x, h, c, w)])

    assert_equal_with_gradients(joined(FAST.lstm), joined(REFERENCE.lstm), inputs)


@given(
    lengths=st.one_of(st.none(), st.lists(st.integers(0, 9), min_size=2, max_size=2)),
    num_tokens=st.integers(1, 12),
    num_memory=st.integers(0, 9),
    window=st.integers(1, 25),
    block=st.sampled_from([3, _QUERY_BLOCK]),
)
def test_attention(
    lengths: list[int] | None, num_tokens: int, num_memory: int, window: int, block: int
) -> None:
    lengths = lengths and [min(n, num_memory) for n in lengths]
    rows = [randn(2, num_memory, 4), randn(2, num_tokens, 4)]
    inputs = [randn(2, num_tokens, 4), *rows, randn(4), randn(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharnn.ops.attention._QUERY_BLOCK", block)
        assert_equal_with_gradients(
            lambda *x: FAST.attention(*x, window, lengths),
            lambda *x: REFERENCE.attention(*x, window, lengths),
            inputs,
        )


def test_reach_mask_is_what_it_says() -> None:
    for lane, written in enumerate((3, 1)):
        mask = reach_mask(num_tokens=3, num_memory=3, window=4, lengths=(3, 1))[lane]
        for position in range(3):
            for row in range(6):
                seen = 3 - written <= row <= 3 + position and row > 3 + position - 4
                assert bool(mask[position, row]) == seen


@pytest.mark.parametrize("ops", [FAST, REFERENCE])
def test_dropout_keeps_the_mean(ops: object) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.ones(1, 4000, 4), torch.eye(4).repeat(2, 1), torch.zeros(8)
    kept = ops.boom(x, weight, bias, 0.0).mean()
    dropped = ops.boom(x, weight, bias, 0.3).mean()
    torch.testing.assert_close(dropped, kept, rtol=0.03, atol=0)
    rows, gate = torch.ones(1, 2000, 4), torch.ones(4)
    mixed = ops.attention(torch.zeros(1, 2000, 4), rows, rows, gate, gate, 5000, None, 0.3).mean()
    torch.testing.assert_close(mixed, torch.tensor(1.0), rtol=0.03, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_follows_the_definition(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 8, 16), torch.randn(64, 16) / 4, torch.randn(64)
    expected = REFERENCE.boom(x, weight, bias)
    ours = FAST.boom(x.to(dtype), weight.to(dtype), bias.to(dtype)).float()
    assert float((ours - expected).norm() / expected.norm()) < (
        2e-2 if dtype == torch.bfloat16 else 1e-6
    )
