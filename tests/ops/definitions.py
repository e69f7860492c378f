"""Compares operations with their definitions, in outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Largest relative error in each dtype.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 3e-6, torch.bfloat16: 3e-2}
#: Lanes, tokens and width at which vectors have whole and cut parts, and features several blocks.
SIZES = 3, 40, 328


def results_of(op: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Return the output and the gradients of its weighted sum with respect to all inputs."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = op(*leaves)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    return [out, *torch.autograd.grad((out * weight).sum(), leaves)]


def assert_equal_with_gradients(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    for ours, expected in zip(results_of(fast, inputs), results_of(slow, inputs), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


def assert_dtype_follows(
    fast: Callable[..., Tensor],
    slow: Callable[..., Tensor],
    inputs: list[Tensor],
    dtype: torch.dtype,
) -> None:
    """Compare an operation in `dtype` with its definition in float64, by the norms of differences."""
    expected = results_of(slow, inputs)
    for ours, theirs in zip(results_of(fast, [x.to(dtype) for x in inputs]), expected, strict=True):
        difference = ours.detach().double() - theirs.detach()
        assert float(difference.norm() / theirs.detach().norm()) < TOLERANCES[dtype]


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def seeded(op: Callable[..., Tensor], *inputs: object) -> Tensor:
    """Call an operation with the same dropout masks each time."""
    torch.manual_seed(3)
    return op(*inputs)
