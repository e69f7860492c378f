"""Weighted sums of a table's rows.

Legend: N positions · R rows of each · V rows of the table · D embed_dim.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Rows of a table up to which a GPU multiplies with all of them sooner than it gathers the few.
_MULTIPLIED_ROWS = 1024


def weighted_rows(table_VD: Tensor, index_NR: Tensor, weight_NR: Tensor) -> Tensor:
    """Equal `reference.weighted_rows`.

    A CPU adds up the rows as it reads them. On a GPU, of a small table, each position's weights are
    laid out over all V rows, and both directions are matrix products: that is six times as quick for
    bytes as gathering 16 rows of 1,024 numbers.
    """
    if table_VD.is_cuda and len(table_VD) <= _MULTIPLIED_ROWS:
        return F.linear(_LaidOut.apply(index_NR, weight_NR, len(table_VD)), table_VD.t())
    return F.embedding_bag(index_NR, table_VD, per_sample_weights=weight_NR, mode="sum")


class _LaidOut(torch.autograd.Function):
    """`(index [N, R], weight [N, R]) → [N, V]` with each weight added to where its index says.

    A column of indices at a time: no two threads add to one number, so the sums do not depend on who
    came first.
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
