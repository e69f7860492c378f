"""The operations of a SHA-RNN as functions of tensors, each in two forms.

`REFERENCE` is the definition: eager, step by step, as in the paper's own code. `FAST` computes the same
outputs and gradients faster. A model takes either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F

from sharnn.ops import attention, boom, dropout, lstm, recall, reference, weighted_rows


@dataclass(frozen=True)
class Ops:
    """One form of each operation; `ops.reference` documents their arguments and shapes."""

    lstm: Callable[..., reference.LstmResult]
    attention: Callable[..., reference.Tensor]
    boom: Callable[..., reference.Tensor]
    dropout: Callable[[reference.Tensor, float], reference.Tensor]
    recall: Callable[..., tuple[reference.Tensor, reference.Tensor]]
    weighted_rows: Callable[..., reference.Tensor]


REFERENCE = Ops(
    reference.lstm,
    reference.attention,
    reference.boom,
    F.dropout,
    reference.recall,
    reference.weighted_rows,
)
FAST = Ops(
    lstm.lstm,
    attention.attention,
    boom.boom,
    dropout.dropout,
    recall.recall,
    weighted_rows.weighted_rows,
)

__all__ = ["FAST", "REFERENCE", "Ops"]
