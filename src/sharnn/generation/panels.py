"""The matrix layout of the kernels in `products.h`: panels of 16 rows, read sequentially.

Legend: P parts of a matrix (gates, chunks of Boom), of D rows each · K its columns.
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from sharnn.machine import prefer_large_pages

#: Dtype codes of the kernels.
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_PANEL_ROWS, _LINE_BYTES = 16, 64


class MatrixStruct(ctypes.Structure):
    """`Matrix` of `products.h`."""

    _fields_ = (
        ("lines", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("sum", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64), ("columns", ctypes.c_int64), ("kind", ctypes.c_int64),
    )  # fmt: skip


def by_panels(rows: Tensor, num_parts: int) -> Tensor:
    """Return `[P D, …]` in panel order, features 0 to 15 of each part first, padded with zeros."""
    rows = rows.unflatten(0, (num_parts, -1))
    missing = -rows.shape[1] % _PANEL_ROWS
    if missing:
        rows = F.pad(rows, (*(0, 0) * (rows.ndim - 2), 0, missing))
    return rows.unflatten(1, (-1, _PANEL_ROWS)).transpose(0, 1).flatten(0, 2)


def lines(weight: Tensor, num_parts: int) -> Tensor:
    """Return `[P D, K]` as `[panels, lines, 16, columns of a line]`; see `Matrix` in `products.h`."""
    columns = _LINE_BYTES // _PANEL_ROWS // weight.element_size()
    rows = by_panels(weight, num_parts)
    if rows.shape[1] % columns:
        rows = F.pad(rows, (0, -rows.shape[1] % columns))
    panels = rows.view(-1, _PANEL_ROWS, rows.shape[1] // columns, columns).transpose(1, 2)
    packed = torch.empty_like(panels, memory_format=torch.contiguous_format)
    prefer_large_pages(packed.data_ptr(), packed.nbytes)
    return packed.copy_(panels)
