"""Published results of the systems that recipes correspond to.

All are for the whole of enwik8 at full size. They are shown beside our measurements and used in no
computation.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of the paper's table 1 (arXiv 1911.11423), and the paper's training time.

    Attributes:
        system: Name in the paper.
        valid: Bits per character on enwik8's valid split, with the published digits; None if not given.
        test: The same on the test split.
        parameters: Number of parameters in millions.
        epoch_seconds: Seconds of a training epoch on a Titan V; None if not given.
    """

    system: str
    valid: str | None
    test: str
    parameters: int
    epoch_seconds: int | None = None


#: By name of the recipe. `plain-lstm` is not a published system; it has the figures of the nearest one.
PUBLISHED = {
    "paper-enwik8-one": Published("SHA-LSTM, one attention layer", "1.100", "1.076", 52, 1800),
    "paper-enwik8-all": Published("SHA-LSTM, attention in every layer", "1.096", "1.068", 54, 4020),
    "paper-no-attention": Published("SHA-LSTM, no attention", "1.312", "1.330", 51),
    "plain-lstm": Published("LSTM (Melis 2019), the nearest", "1.182", "1.195", 48),
    "transformer": Published("12-layer Transformer (Al-Rfou)", None, "1.11", 44),
}
