"""The single head: a gated query over a memory that is key and value at once.

Legend: B lanes · T tokens · M memory rows · K = M + T · D embed_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharnn.ops import Ops

#: The original's epsilon. Embeddings start with a variance near 1e-5, so the usual 1e-5 would change
#: the first block; 1e-12 underflows in fp16, so LayerNorms compute in float32.
NORM_EPS = 1e-12
#: σ of it is 0.98.
_OPEN = 4.0


class LayerNorm(nn.LayerNorm):
    """Affine LayerNorm over the last dimension that computes in float32 and keeps its input's dtype."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` of any shape `[…, D]`."""
        if x.dtype == torch.float16:
            return super().forward(x.float()).to(x.dtype)
        return super().forward(x)


class OverparamGate(nn.Module):
    """A vector of D gates, computed from a vector and a matrix while training (paper, section 3.2).

    `w = σ(W_f s + b_f) ⊙ tanh(W_c s + b_c)` with `s = σ(seed)`. It takes no input, so after training
    `fold()` keeps the vector and lets go of the 2D² weights.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seed = nn.Parameter(torch.zeros(dim))
        self.linear = nn.Linear(dim, 2 * dim)

    def forward(self) -> Tensor:
        """Return the gates `[D]`."""
        candidate_D, gate_D = self.linear(self.seed.sigmoid()).chunk(2)
        return gate_D.sigmoid() * candidate_D.tanh()

    def fold(self) -> VectorGate:
        """Return the same gates as a plain vector."""
        folded = VectorGate(self.seed.shape[0]).to(self.seed)
        with torch.no_grad():
            folded.weight.copy_(self())
        return folded


class VectorGate(nn.Module):
    """A plain vector of D gates, all `initial` at the start."""

    def __init__(self, dim: int, initial: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), initial))

    def forward(self) -> Tensor:
        """Return the gates `[D]`."""
        return self.weight

    def fold(self) -> VectorGate:
        """Return itself: there is nothing left to fold."""
        return self


class SingleHeadAttention(nn.Module):
    """One head whose only matrix makes the query (paper, section 3.2).

    `q = σ(qs) ⊙ LN(W_q g + b_q)`, keys `σ(ks) ⊙ K`, values `w ⊙ K`. Rows are written to the memory
    once and never projected, so a step costs one D × D product however long the memory is.

    With `reads_next` the value of a row is the row after it. The query then begins as the input itself
    with gates that are open: from the first step the head finds the places that are like this one and
    reads what followed there, and is left to learn what "like" should mean. A head that must first find
    that rows hold what came before them had not learnt it after 400,000 tokens (EXPERIMENTS.md).
    """

    def __init__(
        self,
        dim: int,
        overparam_value_gate: bool,
        dropout: float,
        value_gate: float = 0.5,
        reads_next: bool = False,
    ) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.query_norm = LayerNorm(dim)
        self.query_gate = nn.Parameter(torch.zeros(dim))
        self.key_gate = nn.Parameter(torch.zeros(dim))
        self.value_gate: OverparamGate | VectorGate = (
            OverparamGate(dim) if overparam_value_gate else VectorGate(dim, value_gate)
        )
        self.dropout = dropout
        self.reads_next = reads_next

    @torch.no_grad()
    def match_likeness(self) -> None:
        """Let the query be the input itself, and gates be open: scores are then √D cos(query, row)."""
        self.query.weight.copy_(torch.eye(len(self.query.weight)))
        self.query.bias.zero_()
        self.query_gate.fill_(_OPEN)
        self.key_gate.fill_(_OPEN)

    def queries(self, x: Tensor) -> Tensor:
        """Return normalised and gated queries for `x`, both `[…, D]`."""
        return self.query_norm(self.query(x)) * self.query_gate.sigmoid()

    def forward(
        self,
        x_BTD: Tensor,
        rows_BKD: Tensor,
        current_BTD: Tensor,
        window: int,
        lengths: tuple[int, ...] | None,
        ops: Ops,
    ) -> Tensor:
        """Attend from `x_BTD` over the memory's rows and the segment's own.

        Args:
            x_BTD: Normalised block input.
            rows_BKD: Rows of earlier segments and, behind them, this one's, without gradient.
            current_BTD: Rows of this segment.
            window: Rows in reach of a position, its own included.
            lengths: Memory rows that each lane has written; None when all have written all.
            ops: Form of the operation.

        Returns:
            `[B, T, D]`.
        """
        return ops.attention(
            self.queries(x_BTD),
            rows_BKD,
            current_BTD,
            self.key_gate.sigmoid(),
            self.value_gate(),
            window,
            lengths,
            self.dropout if self.training else 0.0,
            self.reads_next,
        )
