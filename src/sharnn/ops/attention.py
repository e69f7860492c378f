"""Single-headed attention with its gates folded away, over one tensor that is key and value.

Legend: B lanes · T tokens · M memory rows · K = M + T · D embed_dim.
"""

from __future__ import annotations

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
    rows_BKD: Tensor,
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
    num_tokens = query_BTD.shape[1]
    num_memory = rows_BKD.shape[1] - num_tokens
    query_BTD = F.dropout(query_BTD, dropout) * key_gate_D
    outputs = []
    for start in range(0, num_tokens, _QUERY_BLOCK):
        stop = min(start + _QUERY_BLOCK, num_tokens)
        first_row = max(0, num_memory + start - window + 1)
        rows = rows_BKD[:, first_row : num_memory + stop]
        in_reach = None if lengths is None else [n + start for n in lengths]
        outputs.append(_attend(query_BTD[:, start:stop], rows, window, in_reach, dropout))
    mixed_BTD = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return mixed_BTD * value_gate_D


def _attend(
    query_BTD: Tensor,
    rows_BKD: Tensor,
    window: int,
    lengths: Sequence[int] | None,
    dropout: float,
) -> Tensor:
    num_tokens, num_rows = query_BTD.shape[1], rows_BKD.shape[1]
    causal = num_tokens == num_rows and window >= num_rows and lengths is None
    everything = num_tokens == 1 and window >= num_rows and lengths is None
    mask = None
    if not causal and not everything:
        mask = reach_mask(num_tokens, num_rows - num_tokens, window, lengths, rows_BKD.device)
        mask = mask[:, None]
    rows_B1KD = rows_BKD[:, None]
    return F.scaled_dot_product_attention(
        query_BTD[:, None].to(rows_BKD.dtype),
        rows_B1KD,
        F.dropout(rows_B1KD, dropout),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and num_tokens > 1,
    ).squeeze(1)
