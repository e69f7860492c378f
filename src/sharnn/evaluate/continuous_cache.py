"""The continuous cache: tokens that followed similar states are likely to follow again.

Grave, Joulin and Usunier 2017, "Improving neural language models with a continuous cache"
(arXiv 1612.04426), section 3.

Legend: B lanes · T tokens of a segment · M cached rows · K = M + T · D embed_dim.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sharnn.errors import ConfigError
from sharnn.model import LanguageModel

#: Default λ and θ: one step more cautious than the best of a small grid (docs/evaluation_protocol.md).
CACHE_WEIGHT, CACHE_FLATNESS = 0.2, 0.3


@dataclass(frozen=True)
class CacheState:
    """The cached positions, oldest first; a value that is never changed in place.

    Attributes:
        hidden_BMD: The softmax's inputs at the last M positions.
        targets_BM: The token that followed each position.
    """

    hidden_BMD: Tensor
    targets_BM: Tensor


@dataclass(frozen=True)
class ContinuousCache:
    """Interpolates the model's distribution with one over tokens that followed recent positions.

        p_cache(w) ∝ Σ_i 1[x_{i+1} = w] exp(θ h_t · h_i)
        p(w) = (1 - λ) p_model(w) + λ p_cache(w)

    The sum is over exactly the `size` positions before t, or all of them where there are fewer, however
    the text is split into segments. Position t itself is excluded, for its next token is the one to
    predict. Where nothing is cached yet, p is p_model.

    Attributes:
        size: Number of positions kept.
        weight: λ.
        flatness: θ; with 0 only the number of times that a token occurs in the cache matters.
    """

    size: int
    weight: float = CACHE_WEIGHT
    flatness: float = CACHE_FLATNESS

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: A setting is out of range; the message names it.
        """
        if self.size < 1:
            raise ConfigError(f"size is {self.size}: it must remember at least 1 position")
        if not 0 <= self.weight < 1:
            raise ConfigError(
                f"weight is {self.weight}: it must be at least 0 and below 1, for a token that "
                "is not in the cache has no other probability than the model's"
            )
        if not 0 <= self.flatness < math.inf:
            raise ConfigError(f"flatness is {self.flatness}: it must be finite and at least 0")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as stored in `Score.settings`."""
        return asdict(self)

    def initial_state(self, model: LanguageModel, num_lanes: int) -> CacheState:
        """Return the empty cache of `num_lanes` lanes, for a model's hidden states."""
        weight = model.embedding.weight
        nothing = weight.new_zeros(num_lanes, 0, model.config.embed_dim)
        return CacheState(nothing, torch.zeros(num_lanes, 0, dtype=torch.long, device=model.device))

    def mix(
        self, nats_BT: Tensor, hidden_BTD: Tensor, targets_BT: Tensor, state: CacheState
    ) -> tuple[Tensor, CacheState]:
        """Return the nats of a segment's targets with the cache mixed in, and the next state.

        Args:
            nats_BT: -log p_model(target), from any kind of softmax.
            hidden_BTD: The inputs of that softmax.
            targets_BT: The token that follows each position, int64.
            state: The cache before the segment.

        Returns:
            -log p(target), `[B, T]`, and the cache after the segment.
        """
        hidden_BKD = torch.cat([state.hidden_BMD, hidden_BTD], dim=1)
        targets_BK = torch.cat([state.targets_BM, targets_BT], dim=1)
        num_tokens, num_rows = hidden_BTD.shape[1], hidden_BKD.shape[1]
        row_K = torch.arange(num_rows, device=hidden_BTD.device)
        back_TK = row_K[num_rows - num_tokens :, None] - row_K
        out_of_reach_TK = (back_TK < 1) | (back_TK > self.size)
        scores_BTK = self.flatness * (hidden_BTD @ hidden_BKD.transpose(1, 2))
        scores_BTK.masked_fill_(out_of_reach_TK, -math.inf)
        others_BTK = targets_BK[:, None] != targets_BT[..., None]
        log_all_BT = scores_BTK.logsumexp(-1)
        log_cache_BT = scores_BTK.masked_fill_(others_BTK, -math.inf).logsumexp(-1) - log_all_BT
        log_weight = math.log(self.weight) if self.weight else -math.inf
        mixed_BT = -torch.logaddexp(math.log1p(-self.weight) - nats_BT, log_weight + log_cache_BT)
        mixed_BT = torch.where(log_all_BT.isneginf(), nats_BT, mixed_BT)
        first_kept = max(num_rows - self.size, 0)
        return mixed_BT, CacheState(hidden_BKD[:, first_kept:], targets_BK[:, first_kept:])
