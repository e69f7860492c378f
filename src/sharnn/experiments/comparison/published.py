"""What was published of the systems that recipes stand for.

All of it is of enwik8 in full, at full size: it stands beside what is measured here and is never taken
into it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A line of the paper's table (arXiv 1911.11423, table 1), and the time it tells.

    Attributes:
        system: What it is called there.
        valid: Bits per character of enwik8's valid split, to the digit; None where none was published.
        test: Of its test split.
        parameters: As published, in millions.
        epoch_seconds: Of training on a Titan V; None where none was published.
    """

    system: str
    valid: str | None
    test: str
    parameters: int
    epoch_seconds: int | None = None


#: By the name of the recipe; `plain-lstm` is no published system, so the nearest stands for it.
PUBLISHED = {
    "paper-enwik8-one": Published("SHA-LSTM, one attention layer", "1.100", "1.076", 52, 1800),
    "paper-enwik8-all": Published("SHA-LSTM, attention in every layer", "1.096", "1.068", 54, 4020),
    "paper-no-attention": Published("SHA-LSTM, no attention", "1.312", "1.330", 51),
    "plain-lstm": Published("LSTM (Melis 2019), the nearest", "1.182", "1.195", 48),
    "transformer": Published("12-layer Transformer (Al-Rfou)", None, "1.11", 44),
}
