"""Dropout drops at its rate, and backward what it dropped forward."""

from __future__ import annotations

import pytest
import torch

from ops.definitions import randn
from sharnn.ops import FAST

pytestmark = pytest.mark.usefixtures("path")


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_independently(rate: float) -> None:
    torch.manual_seed(1)
    first, second = (FAST.dropout(torch.ones(1 << 16), rate) for _ in range(2))
    assert set(first.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rate)).item()}
    dropped = torch.stack([first == 0, second == 0, (first == 0).roll(1), (first == 0).roll(64)])
    assert abs(float(dropped[0].float().mean()) - rate) < 0.01
    correlation = torch.corrcoef(dropped.float()) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.02


def test_dropout_goes_backward_through_the_mask_it_went_forward() -> None:
    """Dropout is linear, which makes its gradient known."""
    torch.manual_seed(2)
    x = randn(2, 9, 8).requires_grad_()
    out = FAST.dropout(x, 0.4)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)
