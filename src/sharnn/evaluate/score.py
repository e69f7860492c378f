"""Scores: nats are summed over the text and divided once.

Compare models with different tokenizers by bits per byte or nats per original word of the same text.
A loss per token is comparable only between models with the same tokenizer.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

LN2 = math.log(2)
#: A training score is smoothed over this share of the steps so far, and over this many at most.
_SMOOTHED_SHARE, _SMOOTHED_STEPS = 0.1, 50


@dataclass(frozen=True)
class Score:
    """A model's score on a text.

    Attributes:
        protocol: How the text was read: `strict`, `paper` or `ideal`.
        nats: Sum of `-log p` over the scored tokens, natural logarithm.
        num_tokens: Tokens scored.
        num_bytes: Bytes of the scored tokens.
        num_chars: UTF-8 characters that begin in them.
        num_words: Words, separated by white space, that begin in them.
        unscored_tokens: Tokens of the text that the protocol skips.
        unscored_bytes: Their bytes.
        seconds: Duration of the evaluation.
        settings: All else that the score depends on: the reach of the `memory`, the settings of
            `paper` and `ideal`, and `dynamic` and `cache` where the model adapts to the text.
    """

    protocol: str
    nats: float
    num_tokens: int
    num_bytes: int
    num_chars: int
    num_words: int
    unscored_tokens: int = 0
    unscored_bytes: int = 0
    seconds: float = 0.0
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the scored text."""
        return _ratio(self.nats / LN2, self.num_bytes)

    @property
    def bits_per_char(self) -> float:
        """Bits per UTF-8 character; equal to bits per byte for ASCII text."""
        return _ratio(self.nats / LN2, self.num_chars)

    @property
    def bits_per_token(self) -> float:
        """Bits per token; comparable only between models with the same tokenizer."""
        return _ratio(self.nats / LN2, self.num_tokens)

    @property
    def word_perplexity(self) -> float:
        """`exp(nats / words)`; infinite if the text has almost no words."""
        nats_per_word = _ratio(self.nats, self.num_words)
        return math.exp(nats_per_word) if nats_per_word < 700 else math.inf

    @property
    def tokens_per_second(self) -> float:
        """Speed of the evaluation."""
        return _ratio(self.num_tokens, self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return counts and ratios as JSON values; a ratio that is not finite is null."""
        ratios = {
            name: getattr(self, name)
            for name in (
                "bits_per_byte",
                "bits_per_char",
                "bits_per_token",
                "word_perplexity",
                "tokens_per_second",
            )
        }
        finite = {k: v if math.isfinite(v) else None for k, v in ratios.items()}
        return {**asdict(self), **finite}


def smoothed(before: float | None, bits_per_byte: float, step: int) -> float:
    """Return the running mean of a training score after a step.

    It covers a tenth of the steps so far, and 50 at most: a fixed number would lag behind the steep
    beginning of a short run.

    Args:
        before: The mean before the step; None before the first.
        bits_per_byte: Score of the step.
        step: Its number, from 1.
    """
    if before is None:
        return bits_per_byte
    steps = max(min(_SMOOTHED_SHARE * step, _SMOOTHED_STEPS), 1)
    return before + (bits_per_byte - before) / steps


def _ratio(amount: float, count: float) -> float:
    return amount / count if count else math.inf
