"""What a training step does between its matrix products, each one pass over its data.

In three forms that give the same: kernels in C++ on a CPU with a compiler, in Triton on CUDA, and
PyTorch's own operations everywhere else. None takes part in differentiation: the functions that do
(`ops.boom`, `ops.attention`, `ops.dropout`) call these forward and backward.

Legend: N positions · D embed_dim · F boom_dim · G lanes taken together · Q queries · R rows in their
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
    """Draw the seeds of dropout masks from PyTorch's generator."""
    return torch.randint(1 << 32, (count,)).tolist()


def boom_sum(z_NF: Tensor, dim: int, rate: float, seed: int) -> Tensor:
    """Return `Σ_chunk drop(φ(z))`, `[N, D]`, with `φ(z) = z·σ(1.702 z)` and chunks of width D.

    Args:
        z_NF: F is a multiple of D.
        dim: D.
        rate: Of dropout.
        seed: Names the mask, which is computed again whenever it is needed.
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
    """Return the gradient of `z_NF` for that of what `boom_sum` returned."""
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
    """Return the softmax over what each query reaches, 0 elsewhere; `scores` may be overwritten.

    With `reads_next` (`reference.attention`) a row's weight stands at the row after it, which is read.

    Args:
        scores_GQR: Query q reaches the rows up to `last + q`, `window` of them at most.
        last: Row of query 0.
        window: Rows in reach of a position, its own included.
        unwritten: For each lane, how many of the first rows belong to no text of its own; None: none.
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
    if reads_next:  # the row of zeros comes first, so that weights of all others move by one
        scores_GQR = F.pad(scores_GQR[..., :-1], (1, 0))
    # The dtype is named: autocast would make it float32, and the backward pass wants what it was.
    weights_GQR = scores_GQR.softmax(-1, dtype=scores_GQR.dtype)
    return _without_first(weights_GQR) if reads_next else weights_GQR


def _without_first(weights_GQR: Tensor) -> Tensor:
    weights_GQR[..., 0] = 0
    return weights_GQR


def softmax_backward(grad_GQR: Tensor, weights_GQR: Tensor, reads_next: bool = False) -> Tensor:
    """Return the gradient of scores for that of the weights, which may be overwritten."""
    if not compiled.available(grad_GQR):
        scores_grad = torch._softmax_backward_data(grad_GQR, weights_GQR, -1, grad_GQR.dtype)
        return F.pad(scores_grad[..., 1:], (0, 1)) if reads_next else scores_grad
    num_rows = grad_GQR.shape[-1]
    arguments = grad_GQR.numel() // num_rows, num_rows, int(reads_next)
    compiled.call("softmax_backward", grad_GQR.dtype, grad_GQR, weights_GQR, *arguments)
    return grad_GQR


def dropped(x: Tensor, rate: float, seed: int) -> Tensor:
    """Return `x` with each element dropped at `rate`, the others divided by `1 - rate`.

    Args:
        x: Any shape.
        rate: 0 returns `x` itself.
        seed: Names the mask of a shape: computed again, not kept.
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
