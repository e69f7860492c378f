"""The operations between the matrix products of a training step, each as one pass over its data.

Each has three equivalent forms: C++ kernels on a CPU with a compiler, Triton kernels on CUDA, and
PyTorch's own operations everywhere else. Autograd does not differentiate these functions. The autograd
functions in `ops.boom`, `ops.attention` and `ops.dropout` call them, forward and backward.

With dX for the gradient of the loss with respect to X, and a dropout mask m with elements 0 or
1 / (1 - rate), which is computed again from its seed in the backward pass:

    dropout   y = m ⊙ x                              dx = m ⊙ dy
    Boom      y_d = Σ_c m_cd φ(z_cd)                 dz_cd = m_cd φ'(z_cd) dy_d
              φ(z) = z u,  u = σ(1.702 z)            φ'(z) = u (1 + 1.702 z (1 - u))
    softmax   a_k = exp(s_k) / Σ_j exp(s_j)          ds_k = a_k (da_k - Σ_j a_j da_j)

for chunk c and feature d of Boom, and scores s and weights a of one query.

Legend: N positions · D embed_dim · F boom_dim · G lanes processed together · Q queries · R rows in their
reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sharnn.ops import compiled, triton_kernels
from sharnn.ops.reference import GELU_SLOPE, reach_mask


def new_seeds(count: int) -> list[int]:
    """Draw seeds of dropout masks from PyTorch's default generator."""
    return torch.randint(1 << 32, (count,)).tolist()


def boom_sum(z_NF: Tensor, dim: int, rate: float, seed: int) -> Tensor:
    """Return `Σ_chunk drop(φ(z))`, `[N, D]`, with `φ(z) = z·σ(1.702 z)` and chunks of width D.

    Args:
        z_NF: F is a multiple of D.
        dim: D.
        rate: Dropout rate.
        seed: Identifies the mask, which is not stored.
    """
    if triton_kernels.available(z_NF):
        return triton_kernels.boom_sum(z_NF, dim, rate, seed)
    num_chunks = z_NF.shape[1] // dim
    if compiled.available(z_NF):
        out_ND = z_NF.new_empty(z_NF.shape[0], dim)
        arguments = z_NF.shape[0], num_chunks, dim, seed, float(rate)
        compiled.call("boom_forward", z_NF.dtype, z_NF, out_ND, *arguments)
        return out_ND
    activated_NF = dropped(z_NF * torch.sigmoid(GELU_SLOPE * z_NF), rate, seed)
    return activated_NF.unflatten(1, (num_chunks, dim)).sum(1)


def boom_sum_backward(z_NF: Tensor, out_grad_ND: Tensor, rate: float, seed: int) -> Tensor:
    """Return the gradient of `z_NF`, given the gradient of the output of `boom_sum`.

    Every chunk gets the same gradient `dy`, times `φ'(z)` and the mask.
    """
    if triton_kernels.available(z_NF):
        return triton_kernels.boom_sum_backward(z_NF, out_grad_ND, rate, seed)
    dim = out_grad_ND.shape[1]
    num_chunks = z_NF.shape[1] // dim
    if compiled.available(z_NF):
        z_grad_NF = torch.empty_like(z_NF)
        arguments = z_NF.shape[0], num_chunks, dim, seed, float(rate)
        compiled.call("boom_backward", z_NF.dtype, z_NF, out_grad_ND, z_grad_NF, *arguments)
        return z_grad_NF
    sigmoid_NF = torch.sigmoid(GELU_SLOPE * z_NF)
    slope_NF = sigmoid_NF * (1 + GELU_SLOPE * z_NF * (1 - sigmoid_NF))
    return dropped(slope_NF * out_grad_ND.repeat(1, num_chunks), rate, seed)


def reach_softmax(
    scores_GQR: Tensor,
    last: int,
    window: int,
    unwritten: Sequence[int] | None,
    reads_next: bool = False,
) -> Tensor:
    """Return the softmax over the rows in reach of each query, 0 elsewhere; may overwrite `scores`.

    With `reads_next` (`reference.attention`) the weight of row k is in column k + 1, which is read.

    Args:
        scores_GQR: Scores. Query q reaches at most `window` rows, up to row `last + q`.
        last: Row of query 0.
        window: Rows in reach of a position, including its own.
        unwritten: For each lane, the number of first rows that are not from the lane's own text; None if
            there are none.
        reads_next: See above.
    """
    num_queries, num_rows = scores_GQR.shape[1:]
    if compiled.available(scores_GQR):
        firsts = unwritten or [0] * len(scores_GQR)
        for scores_QR, first in zip(scores_GQR, firsts, strict=True):
            arguments = num_queries, num_rows, last, window, first, int(reads_next)
            compiled.call("reach_softmax", scores_QR.dtype, scores_QR, *arguments)
        return scores_GQR
    lengths = None if unwritten is None else [last - first for first in unwritten]
    mask = reach_mask(num_queries, last, window, lengths, scores_GQR.device, not reads_next)
    scores_GQR = scores_GQR.masked_fill_(~mask, -math.inf)
    if reads_next:  # the row of zeros takes column 0, which moves all other weights by one
        scores_GQR = F.pad(scores_GQR[..., :-1], (1, 0))
    # The dtype is explicit: autocast would use float32, but the backward pass needs the scores' dtype.
    weights_GQR = scores_GQR.softmax(-1, dtype=scores_GQR.dtype)
    return _without_first(weights_GQR) if reads_next else weights_GQR


def _without_first(weights_GQR: Tensor) -> Tensor:
    weights_GQR[..., 0] = 0
    return weights_GQR


def softmax_backward(grad_GQR: Tensor, weights_GQR: Tensor, reads_next: bool = False) -> Tensor:
    """Return the gradient of the scores, given that of the weights, which may be overwritten.

    `ds = a ⊙ (da - Σ a da)`. With `reads_next` the gradient of row k's score is moved from column k + 1
    back to k. Column 0 of the weights is 0, so the row of zeros adds nothing to the sum.
    """
    if not compiled.available(grad_GQR):
        scores_grad = torch._softmax_backward_data(grad_GQR, weights_GQR, -1, grad_GQR.dtype)
        return F.pad(scores_grad[..., 1:], (0, 1)) if reads_next else scores_grad
    num_rows = grad_GQR.shape[-1]
    arguments = grad_GQR.numel() // num_rows, num_rows, int(reads_next)
    compiled.call("softmax_backward", grad_GQR.dtype, grad_GQR, weights_GQR, *arguments)
    return grad_GQR


def dropped(x: Tensor, rate: float, seed: int) -> Tensor:
    """Return `m ⊙ x`: elements are zeroed at probability `rate`, the others divided by `1 - rate`.

    The backward pass is the same function with the same seed.

    Args:
        x: Any shape.
        rate: 0 returns `x` itself.
        seed: Identifies the mask of a shape, which is not stored.
    """
    if rate == 0:
        return x
    if not compiled.available(x):
        generator = torch.Generator(x.device).manual_seed(seed)
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= rate
        return x * kept / (1 - rate)
    x = x.contiguous()
    out = torch.empty_like(x)
    compiled.call("dropout", x.dtype, x, out, x.numel(), seed, rate)
    return out
