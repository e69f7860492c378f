"""Boom with one matrix product, one activation and one sum.

Legend: B lanes · T tokens · D embed_dim · F boom_dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sharnn.ops.reference import GELU_SLOPE


def boom(x_BTD: Tensor, weight_FD: Tensor, bias_F: Tensor, dropout: float = 0.0) -> Tensor:
    """Equal `reference.boom` in outputs and gradients.

    `z·σ(a z) = silu(a z) / a`: the slope a goes into the matrix product (`addmm` scales for free)
    and 1 / a onto the D-wide sum, so that a single F-wide activation is left, whose backward needs
    only its input. Rows of W₁ beyond the last whole chunk are never computed.
    """
    dim = x_BTD.shape[-1]
    num_chunks = weight_FD.shape[0] // dim
    used = num_chunks * dim
    z_NF = torch.addmm(
        bias_F[:used],
        x_BTD.reshape(-1, dim),
        weight_FD[:used].t(),
        beta=GELU_SLOPE,
        alpha=GELU_SLOPE,
    )
    activated_NF = F.silu(z_NF)
    if dropout:
        activated_NF = F.dropout(activated_NF, dropout)
    summed_ND = activated_NF.unflatten(-1, (num_chunks, dim)).sum(-2)
    return (summed_ND / GELU_SLOPE).view(x_BTD.shape)
