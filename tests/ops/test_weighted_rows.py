"""Weighted sums of rows equal their definition, in outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ops.definitions import assert_equal_with_gradients, randn
from sharnn.ops import FAST, REFERENCE
from sharnn.ops.weighted_rows import _LaidOut


@pytest.mark.parametrize("multiplied", [False, True])
def test_weighted_rows(multiplied: bool) -> None:
    """By gathering, and as on a GPU by products with the whole of a small table."""
    index = torch.tensor([[0, 4, 4], [2, 2, 2], [1, 0, 3]])

    def by_products(table: Tensor, weight: Tensor) -> Tensor:
        return _LaidOut.apply(index, weight, len(table)) @ table

    fast = by_products if multiplied else lambda t, w: FAST.weighted_rows(t, index, w)
    assert_equal_with_gradients(
        fast, lambda t, w: REFERENCE.weighted_rows(t, index, w), [randn(5, 4), randn(3, 3)]
    )
