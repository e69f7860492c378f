"""Single-headed attention with its gates folded away, over one tensor that is key and value.

Legend: B lanes · T tokens · M memory rows · K = M + T · D embed_dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sharnn.ops.reference import reach_mask

#: Queries that share one product with the rows in their reach; bounds the rows a query is multiplied
#: with in vain, and the size of the mask, when a segment is longer than the window.
_QUERY_BLOCK = 1024


def attention(
    query_BTD: Tensor,
    memory_BMD: Tensor,
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
    num_tokens, num_memory = query_BTD.shape[1], memory_BMD.shape[1]
    query_BTD = (F.dropout(query_BTD, dropout) * key_gate_D).to(current_BTD.dtype)
    memory_BMD = memory_BMD.to(current_BTD.dtype)
    attend = _attend_fused if query_BTD.is_cuda else _attend_in_parts
    outputs = []
    for start in range(0, num_tokens, _QUERY_BLOCK):
        stop = min(start + _QUERY_BLOCK, num_tokens)
        reached = num_memory + start - window + 1  # first row in reach of the block
        memory = memory_BMD[:, max(reached, 0) :]
        current = current_BTD[:, max(reached - num_memory, 0) : stop]
        mask = _mask(stop - start, memory.shape[1] + current.shape[1], window,
                     None if lengths is None else [n + start for n in lengths],
                     query_BTD.device)  # fmt: skip
        outputs.append(attend(query_BTD[:, start:stop], memory, current, mask, dropout))
    mixed_BTD = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return mixed_BTD * value_gate_D


def _mask(
    num_tokens: int, num_rows: int, window: int, lengths: Sequence[int] | None, device: torch.device
) -> Tensor | None:
    """Return the reach as True and False, None where the queries see all rows."""
    if num_tokens == 1 and window >= num_rows and lengths is None:
        return None
    return reach_mask(num_tokens, num_rows - num_tokens, window, lengths, device)


def _attend_in_parts(
    query_BTD: Tensor, memory_BMD: Tensor, current_BTD: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """Attend with plain matrix products, memory and segment apart.

    The CPU's fused attention spends most of its backward on gradients of keys and values, and on
    splitting heads. Here there is one head, and memory rows take no gradient at all.
    """
    query_BTD = query_BTD * (1 / math.sqrt(query_BTD.shape[-1]))
    scores_BTK = torch.cat(
        [query_BTD @ memory_BMD.transpose(1, 2), query_BTD @ current_BTD.transpose(1, 2)], dim=-1
    )
    if mask is not None:
        outside = torch.zeros(mask.shape, dtype=scores_BTK.dtype, device=mask.device)
        scores_BTK = scores_BTK + outside.masked_fill_(~mask, -math.inf)
    weights_BTK = F.dropout(scores_BTK.softmax(dim=-1, dtype=scores_BTK.dtype), dropout)
    num_memory = memory_BMD.shape[1]
    from_memory = weights_BTK[..., :num_memory] @ F.dropout(memory_BMD, dropout)
    return from_memory + weights_BTK[..., num_memory:] @ F.dropout(current_BTD, dropout)


def _attend_fused(
    query_BTD: Tensor, memory_BMD: Tensor, current_BTD: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """Attend with PyTorch's fused kernels, which keep no T × K tensor."""
    rows_B1KD = torch.cat([memory_BMD, current_BTD], dim=1)[:, None]
    return F.scaled_dot_product_attention(
        query_BTD[:, None],
        rows_B1KD,
        F.dropout(rows_B1KD, dropout),
        attn_mask=None if mask is None else mask[:, None],
        dropout_p=dropout,
    ).squeeze(1)
