"""Single-headed attention over one tensor of rows that are both keys and values.

Legend: B lanes · T tokens · M memory rows · K = M + T · D embed_dim · G lanes processed together ·
Q queries of a block · R rows in their reach.

A head as wide as the model is too wide for fused attention kernels (FlashAttention's limit is 256), whose
backward passes would also spend most of their time on gradients of memory rows, which are not needed.
Plain matrix products over blocks of queries run near the hardware's peak, and the only T × K tensor is
that of the attention weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sharnn.ops import pointwise
from sharnn.ops.dropout import dropout as drop
from sharnn.ops.matmul import products
from sharnn.ops.pointwise import dropped

#: Queries of one product with the rows in their reach. It limits the size of the scores and the products
#: with rows out of reach if a segment is longer than the window.
_QUERY_BLOCK = 256
#: Scores of the lanes that are processed together on a CPU.
_SCORES_TOGETHER = 1 << 21
#: Products run at half the speed or less if a matrix has rows that are not aligned to 16 bytes.
_ALIGNED_ROWS = 8


def attention(
    query_BTD: Tensor,
    rows_BKD: Tensor,
    current_BTD: Tensor,
    key_gate_D: Tensor,
    value_gate_D: Tensor,
    window: int,
    lengths: Sequence[int] | None = None,
    dropout: float = 0.0,
    reads_next: bool = False,
) -> Tensor:
    """Equal `reference.attention` in outputs and gradients.

    `q·(ks ⊙ r) = (q ⊙ ks)·r` and `Σ a (w ⊙ r) = w ⊙ Σ a r`. So the key gate is applied to the query and
    the value gate to the output, and no gated copy of the rows is needed.
    """
    scale = 1 / math.sqrt(query_BTD.shape[-1])
    query_BTD = (drop(query_BTD, dropout) * (key_gate_D * scale)).to(current_BTD.dtype)
    rows_BKD = rows_BKD.to(current_BTD.dtype)
    mixed_BTD = _Attend.apply(
        query_BTD, rows_BKD, current_BTD, window, lengths, dropout, reads_next
    )
    return mixed_BTD * value_gate_D


class _Block(NamedTuple):
    """Queries `[start, stop)` of a segment and the rows `[first, end)` that contain all their reaches."""

    start: int
    stop: int
    first: int
    end: int


def _blocks(num_tokens: int, num_rows: int, window: int) -> list[_Block]:
    num_memory, blocks = num_rows - num_tokens, []
    for start in range(0, num_tokens, _QUERY_BLOCK):
        stop = min(start + _QUERY_BLOCK, num_tokens)
        first = max(num_memory + start - window + 1, 0) // _ALIGNED_ROWS * _ALIGNED_ROWS
        blocks.append(_Block(start, stop, first, num_memory + stop))
    return blocks


def _groups(query_BTD: Tensor, blocks: Sequence[_Block]) -> list[slice]:
    """Return the groups of lanes that are processed together.

    An accelerator takes all lanes at once. A CPU takes as many as keep a block's scores in its cache
    between the products, and not fewer, because every product has a fixed cost.
    """
    num_lanes, together = query_BTD.shape[0], query_BTD.shape[0]
    if query_BTD.device.type == "cpu":
        scores = max((b.stop - b.start) * (b.end - b.first) for b in blocks)
        together = min(max(_SCORES_TOGETHER // scores, 1), num_lanes)
    return [slice(lane, min(lane + together, num_lanes)) for lane in range(0, num_lanes, together)]


class _Attend(torch.autograd.Function):
    """Softmax attention with plain products, one block of queries at a time; memory takes no gradient.

    Forward, for one lane, with queries Q (gated and scaled), rows R, and the dropout masks m_V and m_A,
    whose elements are 0 or 1 / (1 - rate):

        V = m_V ⊙ R      S = Q Rᵀ      A = softmax(S) over the rows in reach      Y = (m_A ⊙ A) V

    Backward, where dX is the gradient of the loss with respect to X:

        dA = m_A ⊙ (dY Vᵀ)
        dS = A ⊙ (dA - rowsum(A ⊙ dA))
        dQ = dS R
        dR = dSᵀ Q + m_V ⊙ ((m_A ⊙ A)ᵀ dY)      (as keys + as values; only for the segment's own rows)

    With `reads_next`, A has the weight of row k in column k + 1, and dS is moved back by one column. The
    row of zeros is part of the softmax but has no column: its value is 0, so it adds nothing to Y, and
    its dA is 0. Gradients of gates and of the query's dropout are left to autograd (`attention`).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_BTD: Tensor,
        rows_BKD: Tensor,
        current_BTD: Tensor,
        window: int,
        lengths: Sequence[int] | None,
        rate: float,
        reads_next: bool,
    ) -> Tensor:
        num_tokens, num_rows = query_BTD.shape[1], rows_BKD.shape[1]
        num_memory, blocks = num_rows - num_tokens, _blocks(num_tokens, num_rows, window)
        mixed_BTD, weights = torch.empty_like(query_BTD), []
        ctx.parts = list(_parts(_groups(query_BTD, blocks), blocks, rate))
        ctx.settings = num_memory, rate, reads_next
        for lanes, value_seed, each_block in ctx.parts:
            values_GKD = dropped(rows_BKD[lanes], rate, value_seed)
            for (start, stop, first, end), seed in each_block:
                scores_GQR = products(query_BTD[lanes, start:stop], rows_BKD[lanes, first:end])
                unwritten = lengths and [max(num_memory - n - first, 0) for n in lengths[lanes]]
                weights_GQR = pointwise.reach_softmax(
                    scores_GQR, num_memory + start - first, window, unwritten, reads_next
                )
                weights.append(weights_GQR)
                mixed_BTD[lanes, start:stop] = products(
                    dropped(weights_GQR, rate, seed), values_GKD[:, first:end].transpose(1, 2)
                )
        ctx.save_for_backward(query_BTD, rows_BKD, *weights)
        return mixed_BTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, ...]:
        query_BTD, rows_BKD, *weights = ctx.saved_tensors
        num_memory, rate, reads_next = ctx.settings
        grad_BTD = grad_BTD.contiguous()
        query_grad_BTD, key_grad_BTD = torch.empty_like(query_BTD), torch.zeros_like(query_BTD)
        value_grad_BTD, each_weights = torch.zeros_like(query_BTD), iter(weights)
        for lanes, value_seed, each_block in ctx.parts:
            rows_GKD = rows_BKD[lanes]
            values_GKD = dropped(rows_GKD, rate, value_seed)
            for (start, stop, first, end), seed in each_block:
                weights_GQR, grad_GQD = next(each_weights), grad_BTD[lanes, start:stop]
                weights_grad_GQR = products(grad_GQD, values_GKD[:, first:end])
                scores_grad_GQR = pointwise.softmax_backward(
                    dropped(weights_grad_GQR, rate, seed), weights_GQR, reads_next
                )
                query_grad_BTD[lanes, start:stop] = products(
                    scores_grad_GQR, rows_GKD[:, first:end].transpose(1, 2)
                )
                own = max(num_memory, first)  # the segment's first row among the block's rows
                current = lanes, slice(own - num_memory, stop)
                key_grad_BTD[current] += _to_rows(
                    scores_grad_GQR[..., own - first :], query_BTD[lanes, start:stop]
                )
                used_GQR = dropped(weights_GQR, rate, seed)
                value_grad_BTD[current] += _to_rows(used_GQR[..., own - first :], grad_GQD)
            if rate:  # m_V; the segment's own rows come last
                kept_GKD = dropped(torch.ones_like(rows_GKD), rate, value_seed)
                value_grad_BTD[lanes] *= kept_GKD[:, num_memory:]
        return query_grad_BTD, None, key_grad_BTD + value_grad_BTD, None, None, None, None


def _parts(
    groups: Sequence[slice], blocks: Sequence[_Block], rate: float
) -> Iterator[tuple[slice, int, list[tuple[_Block, int]]]]:
    """Yield each group of lanes with the seed of its m_V, and its blocks with the seeds of their m_A."""
    for lanes in groups:
        seeds = pointwise.new_seeds(1 + len(blocks)) if rate else [0] * (1 + len(blocks))
        yield lanes, seeds[0], list(zip(blocks, seeds[1:], strict=True))


def _to_rows(weights_GQR: Tensor, x_GQD: Tensor) -> Tensor:
    """Return `Σ_q weights[q] x[q]` for each row, `[G, R, D]`."""
    return products(weights_GQR.transpose(1, 2), x_GQD.transpose(1, 2))
