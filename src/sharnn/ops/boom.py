"""Boom as one matrix product and one pass for activation, dropout and sum.

Legend: B lanes · T tokens · N = B T · D embed_dim · F boom_dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sharnn.ops import pointwise
from sharnn.ops.matmul import in_autocast_dtype, product


def boom(x_BTD: Tensor, weight_FD: Tensor, bias_F: Tensor, dropout: float = 0.0) -> Tensor:
    """Equal `reference.boom` in outputs and gradients.

    The rows of W₁ beyond the last whole chunk have no effect, so their products are not computed.
    """
    dim = x_BTD.shape[-1]
    used = weight_FD.shape[0] // dim * dim
    inputs = x_BTD.reshape(-1, dim), weight_FD[:used], bias_F[:used]
    return _Boom.apply(*map(in_autocast_dtype, inputs), dropout).view(x_BTD.shape)


class _Boom(torch.autograd.Function):
    """Activation, dropout and sum in one pass; of the intermediate results only z is saved.

    Forward:   z = x W₁ᵀ + b₁      y = Σ_chunk m ⊙ φ(z)
    Backward:  dz = m ⊙ φ'(z) ⊙ dy for each chunk (`pointwise.boom_sum_backward`)
               dx = dz W₁      dW₁ = dzᵀ x      db₁ = Σ_n dz
    """

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_FD: Tensor, bias_F: Tensor, dropout: float
    ) -> Tensor:
        z_NF = product(x_ND, weight_FD, bias_F)
        ctx.settings = dropout, pointwise.new_seeds(1)[0] if dropout else 0
        ctx.save_for_backward(x_ND, weight_FD, z_NF)
        return pointwise.boom_sum(z_NF, x_ND.shape[1], *ctx.settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, out_grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_FD, z_NF = ctx.saved_tensors
        z_grad_NF = pointwise.boom_sum_backward(z_NF, out_grad_ND.contiguous(), *ctx.settings)
        return (
            product(z_grad_NF, weight_FD.t()),
            product(z_grad_NF.t(), x_ND.t()),
            z_grad_NF.sum(0),
            None,
        )
