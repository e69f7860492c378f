"""Sampling a token from logits: filters, then one draw.

Legend: B lanes · V vocab_size · N draws per lane. Filters take and return logits `[…, V]`; tokens that
they exclude get -inf.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharnn.errors import ConfigError, StreamError

#: Number of recent tokens to which a repetition penalty applies.
PENALTY_TOKENS = 256


@dataclass(frozen=True)
class Sampling:
    """Sampling settings, applied in this order: penalty, temperature, top_k, min_p, top_p.

    Attributes:
        temperature: Divides the logits; 0 always takes the likeliest token.
        top_k: Keep only the k likeliest tokens; None keeps all.
        top_p: Keep only the likeliest tokens that together reach this probability (arXiv 1904.09751).
        min_p: Keep only tokens with at least this share of the likeliest token's probability
            (arXiv 2407.01082).
        repetition_penalty: Divides positive and multiplies negative logits of recent tokens
            (arXiv 1909.05858); 1 does nothing.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges and refuse settings that would do nothing.

        Raises:
            ConfigError: A value is out of range, or has no effect together with another.
        """
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(
                f"temperature is {self.temperature}: it must be finite and at least 0"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k is {self.top_k}: it must be at least 1")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"{name} is {value}: it must be above 0 and at most 1")
        if not 0.01 <= self.repetition_penalty <= 100:
            raise ConfigError(
                f"repetition_penalty is {self.repetition_penalty}: it must lie between 0.01 and 100 (1 "
                "does nothing)"
            )
        filters = [n for n in ("top_k", "top_p", "min_p") if getattr(self, n) is not None]
        if self.temperature == 0 and filters:
            raise ConfigError(
                f"{filters[0]} does nothing at temperature 0, which always takes the likeliest token: "
                "leave it out, or raise the temperature"
            )


def sample(
    logits: Tensor, sampling: Sampling, rng: torch.Generator, history: Sequence[int] = ()
) -> int:
    """Draw one token.

    Args:
        logits: `[V]`, on any device; -inf for tokens that must not be drawn.
        sampling: Sampling settings.
        rng: A CPU generator, so that the same logits give the same token on every device.
        history: Tokens so far, for the repetition penalty.

    Raises:
        StreamError: The largest logit is not finite: the model's weights or state are damaged.
    """
    return sample_together(logits[None], sampling, [rng], [history])[0]


def sample_together(
    logits_BV: Tensor,
    sampling: Sampling,
    rngs: Sequence[torch.Generator],
    histories: Sequence[Sequence[int]],
) -> list[int]:
    """Draw one token in each lane, the same one that `sample` draws from that lane's logits.

    Args:
        logits_BV: `[B, V]`, as in `sample`.
        sampling: Sampling settings.
        rngs: A generator for each lane; one number is drawn from each, or none at temperature 0.
        histories: Tokens of each lane so far.

    Raises:
        StreamError: The largest logit of a lane is not finite.
    """
    logits_BV = logits_BV.float().cpu()
    largest_B1 = logits_BV.amax(-1, keepdim=True)
    if not largest_B1.isfinite().all():
        wrong = next(x for x in largest_B1.flatten().tolist() if not math.isfinite(x))
        raise StreamError(
            f"the model's largest logit is {wrong}: its weights or state are damaged, or its training "
            "diverged; use another checkpoint"
        )
    if sampling.repetition_penalty != 1.0:
        penalty = sampling.repetition_penalty
        recent = (history[-PENALTY_TOKENS:] for history in histories)
        pairs = zip(logits_BV, recent, strict=True)
        logits_BV = torch.stack([penalise_repetition(row, seen, penalty) for row, seen in pairs])
        largest_B1 = logits_BV.amax(-1, keepdim=True)
    if sampling.temperature == 0:
        return logits_BV.argmax(-1).tolist()
    # Subtract the largest first, so that it stays finite at any temperature.
    logits_BV = (logits_BV - largest_B1) / sampling.temperature
    if sampling.top_k is not None:
        logits_BV = keep_top_k(logits_BV, sampling.top_k)
    if sampling.min_p is not None:
        logits_BV = keep_min_p(logits_BV, sampling.min_p)
    if sampling.top_p is not None:
        logits_BV = keep_top_p(logits_BV, sampling.top_p)
    numbers_B1 = torch.stack([torch.rand(1, dtype=torch.float64, generator=rng) for rng in rngs])
    return draw(logits_BV, numbers_B1)[:, 0].tolist()


def draw(logits_BV: Tensor, numbers_BN: Tensor) -> Tensor:
    """Return the tokens `[B, N]` at which the cumulative distribution of each lane exceeds its numbers.

    This needs one random number in [0, 1) per token; `torch.multinomial` draws one for every entry of
    the vocabulary.
    """
    passed_BV = logits_BV.double().softmax(-1).cumsum(-1)
    # A token with probability 0 adds nothing to the sum, so it is never drawn.
    return torch.searchsorted(passed_BV, numbers_BN * passed_BV[:, -1:], right=True)


def penalise_repetition(logits_V: Tensor, history: Sequence[int], penalty: float) -> Tensor:
    """Make tokens of `history` less likely."""
    if not history:
        return logits_V
    seen = torch.tensor(sorted(set(history)))
    chosen = logits_V[seen]
    return logits_V.scatter(0, seen, torch.where(chosen > 0, chosen / penalty, chosen * penalty))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep exactly the k largest logits, selected by index so that ties do not enlarge the set."""
    values, places = logits.topk(min(k, logits.shape[-1]))
    return torch.full_like(logits, -math.inf).scatter(-1, places, values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the likeliest tokens until their probability reaches p, including the one that reaches it."""
    ordered, places = logits.sort(descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    before[..., 0] = -1.0  # the likeliest token is kept even where p is tiny or rounds to 0
    kept = ordered.masked_fill(before >= p, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, places, kept)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens with at least p times the probability of the likeliest one."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -math.inf)
