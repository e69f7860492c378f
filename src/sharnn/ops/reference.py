"""The readable definition of every operation; each fast path must equal it.

Legend: B lanes · T tokens of a segment · M memory rows · K = M + T rows attended to · D embed_dim ·
F boom_dim · O orders · S slots. The equations are those of the SHA-RNN paper (arXiv 1911.11423,
sections 3.1 to 3.3), except for recall, which is not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sharnn.kernels.table import PLACE_BITS, TOKEN_BITS
from sharnn.ops.ngram_keys import ngram_keys

LstmResult = tuple[Tensor, Tensor, Tensor]

#: Slope of the sigmoid in Boom's activation x·σ(1.702 x), an approximation of GELU.
GELU_SLOPE = 1.702

_TOKEN = (1 << TOKEN_BITS) - 1


def lstm(
    x_BTD: Tensor,
    hidden_BD: Tensor,
    cell_BD: Tensor,
    weights: Sequence[Tensor],
) -> LstmResult:
    """Run one LSTM layer over a segment, token by token.

    Args:
        x_BTD: Inputs.
        hidden_BD: Hidden state carried in.
        cell_BD: Cell state carried in.
        weights: `weight_ih [4D, D]`, `weight_hh [4D, D]`, `bias_ih [4D]`, `bias_hh [4D]`, gates in
            the order input, forget, candidate, output.

    Returns:
        Outputs `[B, T, D]`, and the hidden and cell state after the last token, `[B, D]` each.
    """
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    outputs = []
    from_input = F.linear(x_BTD, weight_ih, bias_ih)
    for from_input_B4D in from_input.unbind(1):
        gates_B4D = from_input_B4D + F.linear(hidden_BD, weight_hh, bias_hh)
        i, f, g, o = gates_B4D.chunk(4, dim=-1)
        cell_BD = f.sigmoid() * cell_BD + i.sigmoid() * g.tanh()
        hidden_BD = o.sigmoid() * cell_BD.tanh()
        outputs.append(hidden_BD)
    return torch.stack(outputs, dim=1), hidden_BD, cell_BD


def reach_mask(
    num_tokens: int,
    num_memory: int,
    window: int,
    lengths: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    own: bool = True,
) -> Tensor:
    """Return which of the K rows each of T positions may attend to, True where it may.

    Position t is row M + t. It reaches `window` rows: its own and those before it.

    Args:
        num_tokens: T.
        num_memory: M.
        window: Rows in reach, including the position's own; M + T or more is no limit.
        lengths: For each lane, how many of the last memory rows it has written; the others are not from
            its own text. None if each lane has written all of them.
        device: Device of the mask.
        own: Whether a position may attend to its own row.

    Returns:
        `[1, T, K]`, or `[B, T, K]` with `lengths`.
    """
    row = torch.arange(num_memory + num_tokens, device=device)
    position = num_memory + torch.arange(num_tokens, device=device)[:, None]
    last = position if own else position - 1
    mask_1TK = ((row <= last) & (row > position - window))[None]
    if lengths is None:
        return mask_1TK
    first_B = num_memory - torch.tensor(lengths, device=device)
    return mask_1TK & (row >= first_B[:, None, None])


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
    """Attend with a single head over rows that are both keys and values (paper, section 3.2).

    With `reads_next`, which is not in the paper, the value of a row is the row after it: if row j matches
    the current position, row j + 1 says what followed there. So a position does not attend to its own
    row. It may also attend to nothing, by an additional row of zeros whose score is 0.

    Args:
        query_BTD: Queries, already normalised and gated.
        rows_BKD: Rows of earlier segments, followed by the segment's own, all without gradient.
        current_BTD: The segment's own rows again; these take the gradient.
        key_gate_D: σ(ks), multiplies the rows as keys.
        value_gate_D: w, multiplies the rows as values.
        window: Rows that a position reaches, including its own.
        lengths: See `reach_mask`.
        dropout: Dropout rate of queries, values and attention weights.
        reads_next: See above.

    Returns:
        `softmax(q kᵀ / √D) v`, `[B, T, D]`.
    """
    num_memory = rows_BKD.shape[1] - query_BTD.shape[1]
    rows_BKD = torch.cat([rows_BKD[:, :num_memory], current_BTD], dim=1)
    query_BTD = F.dropout(query_BTD, dropout)
    weights_BTK = attention_weights(query_BTD, key_gate_D * rows_BKD, window, lengths, reads_next)
    if reads_next:
        rows_BKD = next_rows(rows_BKD)
    value_BKD = F.dropout(value_gate_D * rows_BKD, dropout)
    return F.dropout(weights_BTK, dropout) @ value_BKD


def next_rows(rows_BKD: Tensor) -> Tensor:
    """Return the row after each row; zeros for the last one."""
    return F.pad(rows_BKD[:, 1:], (0, 0, 0, 1))


def attention_weights(
    query_BTD: Tensor,
    key_BKD: Tensor,
    window: int,
    lengths: Sequence[int] | None = None,
    reads_next: bool = False,
) -> Tensor:
    """Return how much each position attends to each row.

    Args:
        query_BTD: Queries, already normalised and gated.
        key_BKD: Gated keys of earlier segments, followed by the segment's own.
        window: Rows that a position reaches, including its own.
        lengths: See `reach_mask`.
        reads_next: Exclude a position's own row; the weights sum to less than 1, and the row of zeros has
            the rest.

    Returns:
        `softmax(q kᵀ / √D)`, `[B, T, K]`; 0 out of reach.
    """
    num_tokens, dim = query_BTD.shape[1:]
    num_memory = key_BKD.shape[1] - num_tokens
    mask = reach_mask(num_tokens, num_memory, window, lengths, key_BKD.device, not reads_next)
    scores_BTK = query_BTD @ key_BKD.transpose(1, 2) / math.sqrt(dim)
    scores_BTK = scores_BTK.masked_fill(~mask, -math.inf)
    if reads_next:
        return F.pad(scores_BTK, (0, 1)).softmax(dim=-1)[..., :-1]
    return scores_BTK.softmax(dim=-1)


def boom(x_BTD: Tensor, weight_FD: Tensor, bias_F: Tensor, dropout: float = 0.0) -> Tensor:
    """Widen to F, activate, and sum chunks of width D, without a second matrix (paper, section 3.3).

    Args:
        x_BTD: Inputs.
        weight_FD: W₁. If D does not divide F, the last F mod D rows have no effect.
        bias_F: b₁.
        dropout: Dropout rate of the activations.

    Returns:
        `Σ_n φ(W₁ x + b₁)[n D : (n + 1) D]` with `φ(z) = z·σ(1.702 z)`, `[B, T, D]`.
    """
    dim = x_BTD.shape[-1]
    z_BTF = F.linear(x_BTD, weight_FD, bias_F)
    z_BTF = F.dropout(z_BTF * torch.sigmoid(GELU_SLOPE * z_BTF), dropout)
    num_chunks = z_BTF.shape[-1] // dim
    return z_BTF[..., : num_chunks * dim].unflatten(-1, (num_chunks, dim)).sum(-2)


def recall(
    text: Tensor, slots_BOS: Tensor, orders: Sequence[int], in_place: bool = False
) -> tuple[Tensor, Tensor]:
    """Look up which tokens followed each position's last n tokens at their two previous occurrences.

    There is one table of fixed size for each order n. An n-gram overwrites any other n-gram in the slot
    that its key selects.

    Args:
        text: The N tokens before the segment, N being the highest order, and the segment's T tokens,
            int64; -1 before the beginning of a text.
        slots_BOS: The tables, int64, initially zeros; S is a power of two and at least 256.
        orders: The n of each table.
        in_place: Update the given tables, which must be dense.

    Returns:
        The token that followed at the last occurrence and the one at the occurrence before, -1 for none,
        `[B, T, O, 2]`; and the tables after the segment.
    """
    longest, num_tokens = max(orders), text.shape[1] - max(orders)
    key_BOT = recall_keys(text, orders)
    place_BOT = key_BOT & (slots_BOS.shape[2] - 1)
    rest_BOT = key_BOT >> PLACE_BITS
    slots_BOS = slots_BOS if in_place else slots_BOS.clone()
    found = []
    for t in range(num_tokens):
        before, now = slice(t, t + 1), slice(t + 1, t + 2)
        follower = (text[:, longest + t] + 1)[:, None, None] << TOKEN_BITS
        known = _followers(slots_BOS, place_BOT[..., before], rest_BOT[..., before])
        entry = rest_BOT[..., before] << 2 * TOKEN_BITS | follower | known >> TOKEN_BITS
        slots_BOS.scatter_(2, place_BOT[..., before], entry)
        found.append(_followers(slots_BOS, place_BOT[..., now], rest_BOT[..., now]))
    both_BTO = torch.cat(found, dim=2).transpose(1, 2)
    return torch.stack([both_BTO >> TOKEN_BITS, both_BTO & _TOKEN], dim=-1) - 1, slots_BOS


def recall_keys(text: Tensor, orders: Sequence[int]) -> Tensor:
    """Return the keys of the n-grams of each order before each token of a segment, and at its end.

    Args:
        text: As for `recall`.
        orders: The n of each table.

    Returns:
        `[B, O, T + 1]`.
    """
    keys = list(ngram_keys(text, max(orders)))
    return torch.stack([keys[order - 1] for order in orders], dim=1)


def _followers(slots_BOS: Tensor, place_BO1: Tensor, rest_BO1: Tensor) -> Tensor:
    """Return the packed followers of n-grams from their slots; 0 if a slot has none of this n-gram."""
    entry = slots_BOS.gather(2, place_BO1)
    return torch.where(entry >> 2 * TOKEN_BITS == rest_BO1, entry & ((1 << 2 * TOKEN_BITS) - 1), 0)


def weighted_rows(table_VD: Tensor, index_NR: Tensor, weight_NR: Tensor) -> Tensor:
    """Return weighted sums of rows of a table.

    Args:
        table_VD: The table.
        index_NR: R row numbers for each of N positions, int64; they may repeat.
        weight_NR: The weight of each row.

    Returns:
        `Σ_r weight[n, r] table[index[n, r]]`, `[N, D]`.
    """
    return (table_VD[index_NR] * weight_NR[..., None]).sum(1)
