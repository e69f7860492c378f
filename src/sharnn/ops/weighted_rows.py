"""Weighted sums of a table's rows.

Legend: N positions · R rows of each · V rows of the table · D embed_dim.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Number of rows up to which a GPU multiplies with the whole table faster than it gathers a few rows.
_MULTIPLIED_ROWS = 1024


def weighted_rows(table_VD: Tensor, index_NR: Tensor, weight_NR: Tensor) -> Tensor:
    """Equal `reference.weighted_rows`.

    A CPU sums the rows as it reads them. On a GPU with a small table, each position's weights are
    scattered into a vector of all V rows, and the forward and backward passes are matrix products. For
    bytes this is six times as fast as gathering 16 rows of 1,024 numbers.
    """
    if table_VD.is_cuda and len(table_VD) <= _MULTIPLIED_ROWS:
        return F.linear(_LaidOut.apply(index_NR, weight_NR, len(table_VD)), table_VD.t())
    return F.embedding_bag(index_NR, table_VD, per_sample_weights=weight_NR, mode="sum")


class _LaidOut(torch.autograd.Function):
    """`(index [N, R], weight [N, R]) → [N, V]`: each weight is added at its index.

    Forward:   out[n, v] = Σ_r weight[n, r] where index[n, r] = v
    Backward:  dweight[n, r] = dout[n, index[n, r]]

    One column of indices is added at a time. So no two threads add to the same element, and the result
    does not depend on their order.
    """

    @staticmethod
    def forward(ctx: Any, index_NR: Tensor, weight_NR: Tensor, num_rows: int) -> Tensor:
        out_NV = weight_NR.new_zeros(len(index_NR), num_rows)
        for index_N1, weight_N1 in zip(index_NR.split(1, 1), weight_NR.split(1, 1), strict=True):
            out_NV.scatter_add_(1, index_N1, weight_N1)
        ctx.save_for_backward(index_NR)
        return out_NV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NV: Tensor) -> tuple[None, Tensor, None]:
        (index_NR,) = ctx.saved_tensors
        return None, grad_NV.gather(1, index_NR), None
