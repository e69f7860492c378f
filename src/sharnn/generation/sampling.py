"""From logits to a token: filters, then one draw.

Legend: V vocab_size. Filters take and return logits `[V]`; what they exclude becomes -inf.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharnn.errors import ConfigError, StreamError

#: Latest tokens that a repetition penalty looks at.
PENALTY_TOKENS = 256


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: penalty, temperature, then top_k, min_p and top_p of what is left.

    Attributes:
        temperature: Logits are divided by it; 0 always takes the likeliest token.
        top_k: Only the k likeliest tokens; None sets no bound.
        top_p: Only the likeliest tokens that together reach this probability (arXiv 1904.09751).
        min_p: Only tokens with at least this share of the likeliest one's probability
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
        """Check ranges and refuse what would do nothing.

        Raises:
            ConfigError: A value is out of range, or meaningless beside another.
        """
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}: it must be 0 or more")
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
        logits: `[V]`, on any device; what may not be drawn is -inf.
        sampling: How.
        rng: A CPU generator; the draw is the same on every device for the same logits.
        history: Tokens so far, for the repetition penalty.

    Raises:
        StreamError: The logits are not numbers: the model's weights or state are damaged.
    """
    logits = logits.float().cpu()
    if not math.isfinite(float(logits.max())):
        raise StreamError(
            f"the model's largest logit is {float(logits.max())}: its weights or its state are damaged, "
            "or it did not train well; use another checkpoint"
        )
    if sampling.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, history[-PENALTY_TOKENS:], sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Below the largest, so that however low the temperature is, that one stays a number.
    logits = (logits - logits.max()) / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    return int(torch.multinomial(logits.softmax(-1), 1, generator=rng))


def penalise_repetition(logits: Tensor, history: Sequence[int], penalty: float) -> Tensor:
    """Make tokens of `history` less likely."""
    if not history:
        return logits
    seen = torch.tensor(sorted(set(history)))
    chosen = logits[seen]
    return logits.scatter(0, seen, torch.where(chosen > 0, chosen / penalty, chosen * penalty))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep exactly the k largest; by place and not by value, so that ties do not widen the set."""
    values, places = logits.topk(min(k, logits.shape[0]))
    return torch.full_like(logits, -math.inf).scatter(0, places, values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the largest until their probability reaches p, the one that crosses it included."""
    ordered, places = logits.sort(descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    before[0] = -1.0  # kept however small p is, or what it is rounded to
    kept = ordered.masked_fill(before >= p, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(0, places, kept)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens with at least p times the probability of the likeliest."""
    return logits.masked_fill(logits < logits.max() + math.log(p), -math.inf)
