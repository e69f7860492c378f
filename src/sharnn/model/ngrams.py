"""What stands just before a position, looked up: embeddings of hashed n-grams.

Legend: B lanes · T tokens · D embed_dim · N longest n-gram · R rows of a table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharnn.model.state import NO_TOKEN

#: Keys are polynomials modulo a prime below 2³¹, so that no product leaves 64 bits anywhere.
_PRIME = 2_147_483_647
_MULTIPLIER = 1_000_003_019


class NgramEmbedding(nn.Module):
    """One table for each order n = 2 … N; a position reads the row that its last n tokens hash to.

    The orders' rows, each `D // (N - 1)` wide, stand side by side, and the model adds them to the
    token's embedding. A step touches only the rows that its tokens name, and where an identity path
    leads to the softmax the model is an n-gram model from the first steps on, with the rest left to
    learn. Rows are shared by what collides. After the hash n-grams of the Byte Latent Transformer
    (arXiv 2412.09871, section 3.2.1), which adds rows of full width.
    """

    def __init__(self, dim: int, longest: int, num_rows: int) -> None:
        super().__init__()
        self.dim, self.longest, self.num_rows = dim, longest, num_rows
        num_orders = longest - 1
        # Zeros: a row says nothing until its n-gram has been seen.
        self.tables = nn.ModuleList(
            nn.Embedding.from_pretrained(torch.zeros(num_rows, dim // num_orders), freeze=False)
            for _ in range(num_orders)
        )

    def no_tokens(self, num_lanes: int) -> Tensor:
        """Return what stands before a text, `[B, N - 1]`."""
        device = next(self.parameters()).device
        return torch.full((num_lanes, self.longest - 1), NO_TOKEN, device=device)

    def forward(self, tokens_BT: Tensor, recent_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Look up every position.

        Args:
            tokens_BT: Tokens, int64.
            recent_BN: The N - 1 tokens before them, `NO_TOKEN` where there was none.

        Returns:
            `[B, T, D]`, and the N - 1 tokens before the next segment.
        """
        before, num_tokens = recent_BN.shape[1], tokens_BT.shape[1]
        text = torch.cat([recent_BN, tokens_BT], dim=1)
        key_BT, rows = tokens_BT + 2, []
        for back, table in enumerate(self.tables, start=1):
            earlier_BT = text[:, before - back : before - back + num_tokens]
            key_BT = (key_BT * _MULTIPLIER + earlier_BT + 2) % _PRIME
            rows.append(table(key_BT % self.num_rows))
        h_BTD = torch.cat(rows, dim=-1)
        h_BTD = F.pad(h_BTD, (0, self.dim - h_BTD.shape[-1]))
        return h_BTD, text[:, num_tokens:]
