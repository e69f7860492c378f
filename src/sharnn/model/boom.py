"""Boom: the feed-forward layer with a single matrix.

Legend: B lanes · T tokens · D embed_dim · F boom_dim.
"""

from __future__ import annotations

from torch import Tensor, nn

from sharnn.ops import Ops


class Boom(nn.Module):
    """Widen from D to F, activate, and sum chunks of width D (paper, section 3.3).

    It has half the weights of a Transformer's feed-forward layer of the same width: a sum replaces the
    projection from F back to D.
    """

    def __init__(self, dim: int, boom_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, boom_dim)
        self.dropout = dropout

    def forward(self, x_BTD: Tensor, ops: Ops) -> Tensor:
        """Return `[B, T, D]`."""
        dropout = self.dropout if self.training else 0.0
        return ops.boom(x_BTD, self.linear.weight, self.linear.bias, dropout)
