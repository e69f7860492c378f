"""Muon: each step of a matrix is its orthogonalised momentum."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sharnn.ops.matmul import has_fast_bf16
from sharnn.optim.grouped import GroupedOptimizer

#: Quintic Newton-Schulz iterations that move singular values in (0, 1] towards 1, each with coefficients
#: of its own (by J. You for modded-nanogpt, 2025). Steeper ones overshoot in bf16.
_ITERATIONS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
#: AdamW's steps have a root mean square of about 0.2; scaled to that, Muon can use AdamW's learning rate.
_ADAMW_RMS = 0.2


class Muon(GroupedOptimizer):
    """Muon for the matrices of a recurrent model (Jordan et al. 2024; scale of arXiv 2502.16982).

        m = μ m + (1 - μ) g
        O = U Vᵀ, where (1 - μ) g + μ m = U S Vᵀ
        p = p - lr · (wd · p + 0.2 √max(rows, columns) · O)

    A weight whose number of rows is a multiple of its columns is treated as that many square matrices:
    the LSTM's four gates, the chunks of Boom. Each is orthogonalised separately, because what one gate
    learns is independent of the others. All matrices of the same shape are iterated in one batch.

    Args:
        params: Matrices.
        lr: Learning rate, of the size used for AdamW.
        momentum: μ.
        weight_decay: Decoupled weight decay wd.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def step_group(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """Take one step; see the class for the equations."""
        (momenta,) = self.moments(params, "momentum")
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        directions = torch._foreach_lerp(grads, momenta, group["momentum"])
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for p, direction in zip(params, directions, strict=True):
            for pair in zip(_maps(p), _maps(direction), strict=True):
                by_shape.setdefault(pair[0].shape, []).append(pair)
        for shape, pairs in by_shape.items():
            steps = orthogonalised(torch.stack([direction for _, direction in pairs]))
            rate = group["lr"] * _ADAMW_RMS * math.sqrt(max(shape))
            torch._foreach_add_([part for part, _ in pairs], list(steps.unbind()), alpha=-rate)


def _maps(matrix: Tensor) -> tuple[Tensor, ...]:
    """Return the square matrices stacked in a matrix, or the matrix itself if it is not such a stack."""
    rows, columns = matrix.shape
    return matrix.chunk(rows // columns) if rows % columns == 0 else (matrix,)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return matrices `[n, rows, columns]` with the same singular vectors and singular values near 1.

    Singular values of at least 0.002 of the matrix's Frobenius norm end between 0.84 and 1.15. Smaller
    ones grow by a factor of up to 490, relative to the norm, and stay below that.

    Computed in bf16 if the hardware multiplies bf16 faster than float32; that is exact enough for a step.
    The result has the dtype of the input.
    """
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    x = wide.to(torch.bfloat16 if has_fast_bf16(wide.device) else torch.float32)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in _ITERATIONS:
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if wide is not matrices else x).to(matrices.dtype)
