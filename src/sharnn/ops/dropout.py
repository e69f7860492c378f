"""Dropout that recomputes its mask in the backward pass instead of saving it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sharnn.ops import compiled
from sharnn.ops.pointwise import dropped, new_seeds


def dropout(x: Tensor, rate: float) -> Tensor:
    """Return `x` with elements zeroed at probability `rate` and the others divided by `1 - rate`.

    PyTorch generates masks on a CPU sequentially, in one thread. Here each element's random number is a
    hash of its index.
    """
    if rate == 0:
        return x
    if not compiled.available(x):
        return F.dropout(x, rate)
    return _Dropout.apply(x, rate, new_seeds(1)[0])


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float, seed: int) -> Tensor:
        ctx.settings = rate, seed
        return dropped(x, rate, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return dropped(grad, *ctx.settings), None, None
