"""Rows of numbers as small integers with a scale each.

Legend: N rows · K columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

_INT8_LARGEST = 127


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `x [N, K]` as int8 and the scale `[N]` of each row: symmetric, nearest, ties to even."""
    x = x.float()
    largest_N = x.abs().amax(-1)
    inverse_N = torch.where(largest_N > 0, _INT8_LARGEST / largest_N, 0.0)
    return (x * inverse_N[..., None]).round().to(torch.int8), largest_N / _INT8_LARGEST
