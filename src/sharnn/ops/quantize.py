"""Rows of numbers as small integers with a scale each.

Legend: K columns of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

_INT8_LARGEST = 127


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `x […, K]` as int8 and the scale `[…]` of each row: symmetric, nearest, ties to even."""
    x = x.float()
    largest = x.abs().amax(-1)
    inverse = torch.where(largest > 0, _INT8_LARGEST / largest, 0.0)
    return (x * inverse[..., None]).round().to(torch.int8), largest / _INT8_LARGEST
