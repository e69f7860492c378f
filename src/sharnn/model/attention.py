"""The single attention head: a gated query over memory rows that are both keys and values.

Legend: B lanes · T tokens · M memory rows · K = M + T · D embed_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharnn.ops import Ops

#: The original's epsilon. Embeddings start with a variance near 1e-5, so the usual epsilon of 1e-5 would
#: change the first block. 1e-12 underflows in fp16, so LayerNorms compute in float32.
NORM_EPS = 1e-12
#: Initial value of an open gate: its σ is 0.98.
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

    `w = σ(W_f s + b_f) ⊙ tanh(W_c s + b_c)` with `s = σ(seed)`. It has no input, so after training
    `fold()` replaces the 2D² weights by the vector.
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
        """Return a `VectorGate` with the same gates."""
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
        """Return itself: a vector is already folded."""
        return self


class SingleHeadAttention(nn.Module):
    """One head whose only matrix makes the query (paper, section 3.2).

    `q = σ(qs) ⊙ LN(W_q g + b_q)`, keys `σ(ks) ⊙ K`, values `w ⊙ K`. Rows are written to the memory
    once and never projected, so a step needs only one D × D product, however long the memory is.

    With `reads_next` the value of a row is the row after it. The query is then initialised as the
    identity, with open gates. So from the first step the head finds similar places and reads what
    followed there; it only has to learn which similarity is useful. A head that must first find out which
    rows hold what followed had not learnt it after 400,000 tokens (EXPERIMENTS.md).
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
        """Initialise the query as the identity and open the gates; scores are then √D cos(query, row)."""
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
            rows_BKD: Rows of earlier segments, followed by this segment's, all without gradient.
            current_BTD: Rows of this segment, which take the gradient.
            window: Rows in reach of a position, including its own.
            lengths: Memory rows that each lane has written; None if each has written all of them.
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
