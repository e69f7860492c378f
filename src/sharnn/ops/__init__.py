"""The three operations of a SHA-RNN as functions of tensors, each in two forms.

`REFERENCE` is the definition: eager, step by step, as the paper's own code computes it. `FAST` gives
the same outputs and gradients sooner. A model takes either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sharnn.ops import attention, boom, lstm, reference


@dataclass(frozen=True)
class Ops:
    """One form of each operation; see `ops.reference` for their arguments and shapes."""

    lstm: Callable[..., reference.LstmResult]
    attention: Callable[..., reference.Tensor]
    boom: Callable[..., reference.Tensor]


REFERENCE = Ops(reference.lstm, reference.attention, reference.boom)
FAST = Ops(lstm.lstm, attention.attention, boom.boom)

__all__ = ["FAST", "REFERENCE", "Ops"]
