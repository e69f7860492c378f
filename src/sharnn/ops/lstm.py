"""The LSTM through PyTorch's own kernels: oneDNN on CPU, cuDNN on CUDA.

Legend: B lanes · T tokens · D embed_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sharnn.ops.reference import LstmResult


def lstm(
    x_BTD: Tensor, hidden_BD: Tensor, cell_BD: Tensor, weights: Sequence[Tensor]
) -> LstmResult:
    """Equal `reference.lstm` in outputs and gradients."""
    state = (hidden_BD.to(x_BTD.dtype)[None], cell_BD.to(x_BTD.dtype)[None])
    y_BTD, hidden, cell = torch.lstm(
        x_BTD, state, list(weights), True, 1, 0.0, torch.is_grad_enabled(), False, True
    )
    return y_BTD, hidden[0], cell[0]
