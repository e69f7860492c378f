"""Each pass computes its formula, and each backward pass the gradient of the forward pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ops.definitions import randn
from sharnn.ops import pointwise
from sharnn.ops.reference import GELU_SLOPE, reach_mask

pytestmark = pytest.mark.usefixtures("path")


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_boom_is_its_formula_with_the_mask_of_dropout(rate: float) -> None:
    torch.manual_seed(0)
    dim, seed = 7, (1 << 32) - 5
    z_NF, grad_ND = randn(6, 3 * dim).requires_grad_(), randn(6, dim)
    mask_NF = pointwise.dropped(torch.ones_like(z_NF), rate, seed).detach()
    activated_NF = mask_NF * z_NF * torch.sigmoid(GELU_SLOPE * z_NF)
    expected_ND = activated_NF.unflatten(1, (3, dim)).sum(1)
    torch.testing.assert_close(pointwise.boom_sum(z_NF.detach(), dim, rate, seed), expected_ND)
    (z_grad_NF,) = torch.autograd.grad(expected_ND, z_NF, grad_ND)
    found_NF = pointwise.boom_sum_backward(z_NF.detach(), grad_ND, rate, seed)
    torch.testing.assert_close(found_NF, z_grad_NF)


def test_a_seed_is_a_mask() -> None:
    x, (one, other) = torch.ones(64, 64), (1, 2)
    first = pointwise.dropped(x, 0.5, one)
    assert torch.equal(pointwise.dropped(x, 0.5, one), first)
    assert torch.equal(pointwise.dropped(3 * x, 0.5, one), 3 * first)
    assert not torch.equal(pointwise.dropped(x, 0.5, other), first)
    assert pointwise.dropped(x, 0.0, one) is x


def test_new_seeds_follow_the_generator_of_pytorch() -> None:
    torch.manual_seed(4)
    seeds = pointwise.new_seeds(100)
    torch.manual_seed(4)
    assert pointwise.new_seeds(100) == seeds
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 1 << 32 for seed in seeds)


@pytest.mark.parametrize("reads_next", [False, True])
@pytest.mark.parametrize("unwritten", [None, [4, 0]])
def test_softmax_over_the_rows_in_reach(reads_next: bool, unwritten: list[int] | None) -> None:
    torch.manual_seed(0)
    queries, memory, window = 5, 6, 4
    lengths = unwritten and [memory - first for first in unwritten]
    mask = reach_mask(queries, memory, window, lengths, own=not reads_next)

    def defined(scores_GQR: Tensor) -> Tensor:
        scores_GQR = scores_GQR.masked_fill(~mask, -math.inf)
        if not reads_next:
            return scores_GQR.softmax(-1)
        # The row of zeros comes first: the weight of row k is in column k + 1, and its own is not given.
        weights_GQR = torch.nn.functional.pad(scores_GQR, (1, 0)).softmax(-1)[..., :-1]
        return torch.cat([torch.zeros_like(weights_GQR[..., :1]), weights_GQR[..., 1:]], dim=-1)

    scores_GQR, grad_GQR = randn(2, queries, memory + queries).requires_grad_(), randn(2, 5, 11)
    expected_GQR = defined(scores_GQR)
    weights_GQR = pointwise.reach_softmax(
        scores_GQR.detach().clone(), memory, window, unwritten, reads_next
    )
    torch.testing.assert_close(weights_GQR, expected_GQR)
    (scores_grad_GQR,) = torch.autograd.grad(expected_GQR, scores_GQR, grad_GQR)
    found_GQR = pointwise.softmax_backward(grad_GQR.clone(), weights_GQR, reads_next)
    torch.testing.assert_close(found_GQR, scores_grad_GQR)
