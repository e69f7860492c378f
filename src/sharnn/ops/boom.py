"""Boom with one matrix product, one activation and one sum.

Legend: B lanes · T tokens · N = B T · D embed_dim · F boom_dim.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sharnn.ops import kernels
from sharnn.ops.matmul import product
from sharnn.ops.reference import GELU_SLOPE


def boom(x_BTD: Tensor, weight_FD: Tensor, bias_F: Tensor, dropout: float = 0.0) -> Tensor:
    """Equal `reference.boom` in outputs and gradients.

    Rows of W₁ beyond the last whole chunk are never computed.
    """
    dim = x_BTD.shape[-1]
    used = weight_FD.shape[0] // dim * dim
    x_ND, weight_FD, bias_F = x_BTD.reshape(-1, dim), weight_FD[:used], bias_F[:used]
    if x_ND.is_cpu and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x_ND, weight_FD, bias_F = x_ND.to(dtype), weight_FD.to(dtype), bias_F.to(dtype)
    if kernels.available(x_ND):
        return _Boom.apply(x_ND, weight_FD, bias_F, dropout).view(x_BTD.shape)
    return _boom_of_pytorch(x_ND, weight_FD, bias_F, dropout).view(x_BTD.shape)


def _boom_of_pytorch(x_ND: Tensor, weight_FD: Tensor, bias_F: Tensor, dropout: float) -> Tensor:
    """`z·σ(a z) = silu(a z) / a`: the slope a goes into the matrix product (`addmm` scales for free)
    and 1 / a onto the D-wide sum, so that a single F-wide activation is left, whose backward needs
    only its input.
    """
    z_NF = torch.addmm(bias_F, x_ND, weight_FD.t(), beta=GELU_SLOPE, alpha=GELU_SLOPE)
    activated_NF = F.silu(z_NF)
    if dropout:
        activated_NF = F.dropout(activated_NF, dropout)
    return activated_NF.unflatten(-1, (-1, x_ND.shape[-1])).sum(-2) / GELU_SLOPE


class _Boom(torch.autograd.Function):
    """Activation, dropout and sum in one pass; what is kept for the backward pass is z alone."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_FD: Tensor, bias_F: Tensor, dropout: float
    ) -> Tensor:
        z_NF = product(x_ND, weight_FD, bias_F)
        out_ND = torch.empty_like(x_ND)
        dim, seed = x_ND.shape[1], kernels.new_seeds(1)[0] if dropout else 0
        ctx.settings = weight_FD.shape[0] // dim, dim, seed, float(dropout)
        kernels.call("boom_forward", z_NF.dtype, z_NF, out_ND, x_ND.shape[0], *ctx.settings)
        ctx.save_for_backward(x_ND, weight_FD, z_NF)
        return out_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, out_grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_FD, z_NF = ctx.saved_tensors
        z_grad_NF = torch.empty_like(z_NF)
        kernels.call(
            "boom_backward", z_NF.dtype, z_NF, out_grad_ND.contiguous(), z_grad_NF,
            x_ND.shape[0], *ctx.settings,
        )  # fmt: skip
        return (
            product(z_grad_NF, weight_FD.t()),
            product(z_grad_NF.t(), x_ND.t()),
            z_grad_NF.sum(0),
            None,
        )
