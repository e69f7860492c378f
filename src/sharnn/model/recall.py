"""What followed when the same tokens last stood in the text: recall of n-grams.

Legend: B lanes · T tokens · N highest order · O orders · S slots of a table · D embed_dim · V tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sharnn.errors import ConfigError
from sharnn.ops import Ops


class Recall(nn.Module):
    """Adds to a position what the text itself says should come next.

    For each order n a table remembers which token followed the last n tokens when they last stood in
    the text, and which the time before (`ops.reference.recall`). With r₁ and r₂ for these tokens,

        recall = Σ_n Σ_i g_{n,i} E[r_i] + b_{n,i}    over those that there are,

    where E is a table of its own: a token that several orders agree on counts as often. From an
    identity path the softmax can read it at once, and the layers learn when to trust it.

    These are the n-gram heads of Akyürek et al. (arXiv 2401.12973), who wire by hand what
    attention learns late (induction heads, arXiv 2209.11895), with the two latest occurrences in place
    of a mean over all. No weight has to learn a text to repeat it, and no memory rows are read: the cost
    of a token is the same after ten and after a million.
    """

    def __init__(self, vocab_size: int, dim: int, orders: Sequence[int], num_slots: int) -> None:
        super().__init__()
        self.orders, self.num_slots = tuple(orders), num_slots
        sources = 2 * len(orders)
        # Zeros: recall says nothing until a row has learnt what its token means.
        self.tokens = nn.Embedding.from_pretrained(torch.zeros(vocab_size, dim), freeze=False)
        self.gain = nn.Parameter(torch.ones(sources))
        self.source = nn.Embedding.from_pretrained(torch.zeros(sources, dim), freeze=False)

    @property
    def reach(self) -> int:
        """N, the tokens before a segment that it must know."""
        return max(self.orders)

    def no_text(self, num_lanes: int, num_slots: int | None = None) -> Tensor:
        """Return the tables of lanes that have seen nothing, `[B, O, S]`, S as usual if not given.

        Raises:
            ConfigError: There is no memory for as many slots.
        """
        shape = num_lanes, len(self.orders), num_slots or self.num_slots
        try:
            return torch.zeros(shape, dtype=torch.int64, device=self.gain.device)
        except RuntimeError as failure:
            raise ConfigError(
                f"tables of {shape[2]:,} slots to recall from take {8 * math.prod(shape) / 2**30:,.0f} "
                f"GiB, which {self.gain.device} has not: lower model.recall_slots"
            ) from failure

    def forward(
        self, text: Tensor, slots_BOS: Tensor, ops: Ops, in_place: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Look up every position.

        Args:
            text: The N tokens before the segment, -1 where there was none, and the segment's T.
            slots_BOS: The tables before the segment.
            ops: Form of the operations.
            in_place: Write into these tables.

        Returns:
            `[B, T, D]`, and the tables after the segment.
        """
        found, slots_BOS = ops.recall(text, slots_BOS, self.orders, in_place)
        found_BTR = found.flatten(2)
        there_BTR = (found_BTR >= 0).to(self.gain.dtype)
        tokens_ND = ops.weighted_rows(
            self.tokens.weight,
            found_BTR.clamp_min(0).flatten(0, 1),
            (there_BTR * self.gain).flatten(0, 1),
        )
        tokens_BTD = tokens_ND.unflatten(0, there_BTR.shape[:2])
        return tokens_BTD + there_BTR @ self.source.weight, slots_BOS
