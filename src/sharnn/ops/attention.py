"""Single-headed attention with its gates folded away, over one tensor that is key and value.

Legend: B lanes · T tokens · M memory rows · K = M + T · D embed_dim · Q queries of a block · R rows in
their reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sharnn.ops import kernels
from sharnn.ops.dropout import dropout as drop
from sharnn.ops.dropout import dropped
from sharnn.ops.matmul import product
from sharnn.ops.reference import reach_mask

#: Queries that share one product with the rows in their reach; bounds the rows a query is multiplied
#: with in vain, and the size of the scores, when a segment is longer than the window.
_QUERY_BLOCK = 256


def attention(
    query_BTD: Tensor,
    rows_BKD: Tensor,
    current_BTD: Tensor,
    key_gate_D: Tensor,
    value_gate_D: Tensor,
    window: int,
    lengths: Sequence[int] | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Equal `reference.attention` in outputs and gradients.

    `q·(ks ⊙ r) = (q ⊙ ks)·r` and `Σ a (w ⊙ r) = w ⊙ Σ a r`: with the key gate on the query and the
    value gate on the output, no gated copy of the rows is made.
    """
    scale = 1 / math.sqrt(query_BTD.shape[-1])
    query_BTD = (drop(query_BTD, dropout) * (key_gate_D * scale)).to(current_BTD.dtype)
    rows_BKD = rows_BKD.to(current_BTD.dtype)
    if kernels.available(query_BTD):
        mixed_BTD = _Attend.apply(query_BTD, rows_BKD, current_BTD, window, lengths, dropout)
    else:
        mixed_BTD = _attend_of_pytorch(query_BTD, rows_BKD, current_BTD, window, lengths, dropout)
    return mixed_BTD * value_gate_D


class _Block(NamedTuple):
    """Queries `[start, stop)` of a segment and the rows `[first, end)` that any of them reaches."""

    start: int
    stop: int
    first: int
    end: int


def _blocks(num_tokens: int, num_rows: int, window: int) -> Iterator[_Block]:
    num_memory = num_rows - num_tokens
    for start in range(0, num_tokens, _QUERY_BLOCK):
        stop = min(start + _QUERY_BLOCK, num_tokens)
        yield _Block(start, stop, max(num_memory + start - window + 1, 0), num_memory + stop)


def _attend_of_pytorch(
    query_BTD: Tensor,
    rows_BKD: Tensor,
    current_BTD: Tensor,
    window: int,
    lengths: Sequence[int] | None,
    dropout: float,
) -> Tensor:
    """Attend with PyTorch's fused kernels, which keep no T × K tensor of scores."""
    num_tokens, num_rows = query_BTD.shape[1], rows_BKD.shape[1]
    rows_BKD = torch.cat([rows_BKD[:, : num_rows - num_tokens], current_BTD], dim=1)
    values_BKD = F.dropout(rows_BKD, dropout)
    outputs = []
    for start, stop, first, end in _blocks(num_tokens, num_rows, window):
        mixed_B1QD = F.scaled_dot_product_attention(
            query_BTD[:, None, start:stop],
            rows_BKD[:, None, first:end],
            values_BKD[:, None, first:end],
            attn_mask=_mask(stop - start, end - first, start, window, lengths, rows_BKD.device),
            dropout_p=dropout,
            scale=1.0,
        )
        outputs.append(mixed_B1QD[:, 0])
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def _mask(
    num_queries: int,
    num_rows: int,
    start: int,
    window: int,
    lengths: Sequence[int] | None,
    device: torch.device,
) -> Tensor | None:
    """Return the reach as `[B or 1, 1, Q, R]` of True and False, None where queries see all rows."""
    if num_queries == 1 and window >= num_rows and lengths is None:
        return None
    written = None if lengths is None else [length + start for length in lengths]
    return reach_mask(num_queries, num_rows - num_queries, window, written, device)[:, None]


class _Attend(torch.autograd.Function):
    """Attention of one lane and one block of queries after the other, with plain matrix products.

    Scores of a block stay in the cache between the products. Memory rows take no gradient at all,
    which PyTorch's fused attention on a CPU would spend most of its backward on.
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
    ) -> Tensor:
        num_lanes, num_tokens = query_BTD.shape[:2]
        num_memory = rows_BKD.shape[1] - num_tokens
        blocks = list(_blocks(num_tokens, rows_BKD.shape[1], window))
        seeds = kernels.new_seeds(num_lanes * (1 + len(blocks))) if rate else None
        mixed_BTD, weights = torch.empty_like(query_BTD), []
        for lane in range(num_lanes):
            rows_KD = rows_BKD[lane]
            values_KD = dropped(rows_KD, rate, seeds[lane]) if seeds else rows_KD
            unwritten = 0 if lengths is None else num_memory - lengths[lane]
            for index, (start, stop, first, end) in enumerate(blocks):
                weights_QR = product(query_BTD[lane, start:stop], rows_KD[first:end])
                kernels.call(
                    "reach_softmax", weights_QR.dtype, weights_QR, stop - start, end - first,
                    num_memory + start - first, window, max(unwritten - first, 0),
                )  # fmt: skip
                weights.append(weights_QR)
                if seeds:
                    weights_QR = dropped(weights_QR, rate, seeds[num_lanes * (1 + index) + lane])
                mixed_BTD[lane, start:stop] = product(weights_QR, values_KD[first:end].t())
        ctx.save_for_backward(query_BTD, rows_BKD, *weights)
        ctx.settings = blocks, rate, seeds
        return mixed_BTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, ...]:
        query_BTD, rows_BKD, *weights = ctx.saved_tensors
        blocks, rate, seeds = ctx.settings
        num_lanes, num_tokens, dim = query_BTD.shape
        num_memory = rows_BKD.shape[1] - num_tokens
        grad_BTD = grad_BTD.contiguous()
        query_grad_BTD, current_grad_BTD = torch.empty_like(query_BTD), torch.zeros_like(query_BTD)
        each_weights = iter(weights)
        for lane in range(num_lanes):
            rows_KD = rows_BKD[lane]
            values_KD = dropped(rows_KD, rate, seeds[lane]) if seeds else rows_KD
            for index, (start, stop, first, end) in enumerate(blocks):
                weights_QR, query_QD = next(each_weights), query_BTD[lane, start:stop]
                grad_QD = grad_BTD[lane, start:stop]
                scores_grad_QR = product(grad_QD, values_KD[first:end])
                used_QR = weights_QR
                if seeds:
                    seed = seeds[num_lanes * (1 + index) + lane]
                    used_QR = dropped(weights_QR, rate, seed)
                    scores_grad_QR = dropped(scores_grad_QR, rate, seed)
                kernels.call(
                    "softmax_backward", weights_QR.dtype, scores_grad_QR, weights_QR,
                    stop - start, end - first,
                )  # fmt: skip
                query_grad_BTD[lane, start:stop] = product(scores_grad_QR, rows_KD[first:end].t())
                own = max(num_memory, first)  # the first row of this segment that the block reaches
                value_grad = product(used_QR[:, own - first :].t(), grad_QD.t())
                if seeds:
                    value_grad = dropped(value_grad, rate, seeds[lane], own * dim)
                key_grad = product(scores_grad_QR[:, own - first :].t(), query_QD.t())
                current_grad_BTD[lane, own - num_memory : stop] += key_grad + value_grad
        return query_grad_BTD, None, current_grad_BTD, None, None, None
