"""Recall: each position looks up which tokens followed its last n tokens at their previous occurrences.

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
    """Gives each position an embedding of the tokens that followed earlier in the same text.

    For each order n a table stores which token followed the last n tokens at their last occurrence, and
    which at the occurrence before (`ops.reference.recall`). With r₁ and r₂ for these tokens,

        recall = Σ_n Σ_i g_{n,i} E[r_i] + b_{n,i}    over the tokens that were found,

    where E is an embedding table of its own. A token found by several orders is added several times. With
    an identity path the softmax can read it directly, and the layers learn when to trust it.

    These are the n-gram heads of Akyürek et al. (arXiv 2401.12973), which hard-wire what attention learns
    late (induction heads, arXiv 2209.11895), but with the two latest occurrences instead of a mean over
    all. Repeating a text needs no weights that learnt it, and no memory rows are read, so the cost of a
    token is the same after ten tokens and after a million.
    """

    def __init__(self, vocab_size: int, dim: int, orders: Sequence[int], num_slots: int) -> None:
        super().__init__()
        self.orders, self.num_slots = tuple(orders), num_slots
        sources = 2 * len(orders)
        # Zeros, so that recall has no effect until a row has learnt the meaning of its token.
        self.tokens = nn.Embedding.from_pretrained(torch.zeros(vocab_size, dim), freeze=False)
        self.gain = nn.Parameter(torch.ones(sources))
        self.source = nn.Embedding.from_pretrained(torch.zeros(sources, dim), freeze=False)

    @property
    def reach(self) -> int:
        """N, the number of tokens before a segment that the look-up needs."""
        return max(self.orders)

    def no_text(self, num_lanes: int, num_slots: int | None = None) -> Tensor:
        """Return the empty tables of new lanes, `[B, O, S]`; by default S is that of the module.

        Raises:
            ConfigError: There is not enough memory for the slots.
        """
        shape = num_lanes, len(self.orders), num_slots or self.num_slots
        try:
            return torch.zeros(shape, dtype=torch.int64, device=self.gain.device)
        except RuntimeError as failure:
            raise ConfigError(
                f"recall tables of {shape[2]:,} slots take {8 * math.prod(shape) / 2**30:,.0f} GiB, "
                f"which {self.gain.device} does not have: lower model.recall_slots"
            ) from failure

    def forward(
        self, text: Tensor, slots_BOS: Tensor, ops: Ops, in_place: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Look up every position.

        Args:
            text: The N tokens before the segment (-1 before the beginning of a text) and the segment's T
                tokens.
            slots_BOS: The tables before the segment.
            ops: Form of the operations.
            in_place: Update these tables instead of copies.

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
