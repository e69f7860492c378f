"""Quantisation of rows to int8, with a scale for each row.

Legend: K columns of a row · N, M rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sharnn import machine

_INT8_LARGEST = 127
#: Number of columns up to which float32 represents every sum of products exactly: 127² · 1,024 < 2²⁴.
_EXACT_COLUMNS = 1024


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `x […, K]` as int8, and the scale `[…]` of each row: symmetric, nearest, ties to even."""
    x = x.float()
    largest = x.abs().amax(-1)
    inverse = torch.where(largest > 0, _INT8_LARGEST / largest, 0.0)
    return (x * inverse[..., None]).round().to(torch.int8), largest / _INT8_LARGEST


def integer_product(a_NK: Tensor, b_MK: Tensor) -> Tensor:
    """Return the exact `a bᵀ` of int8 matrices, `[N, M]` in int32.

    Without VNNI, oneDNN adds pairs of products in 16 bits, which saturate. Blocks of columns are then
    multiplied in float32, which is exact.
    """
    if machine.allows("avx512_vnni") and a_NK.shape[1] > 1:
        # oneDNN refuses a stride that is too short, which a dimension of size 1 may have, and PyTorch
        # then returns uninitialised memory (pytorch/pytorch#195066).
        return torch._int_mm(a_NK.reshape(-1).view(a_NK.shape), b_MK.t())
    pairs = zip(a_NK.split(_EXACT_COLUMNS, 1), b_MK.split(_EXACT_COLUMNS, 1), strict=True)
    return sum((a.float() @ b.float().t()).int() for a, b in pairs)
