"""The LSTM through PyTorch's own kernels: oneDNN on CPU, cuDNN on CUDA.

Legend: B lanes · T tokens · D embed_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
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


def lstm_step(
    x_BD: Tensor, hidden_BD: Tensor, cell_BD: Tensor, weight_4D_2D: Tensor, bias_4D: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance one token with both matrices packed side by side, `[W_ih | W_hh]`.

    Args:
        x_BD: Input.
        hidden_BD: Hidden state.
        cell_BD: Cell state.
        weight_4D_2D: Packed weights `[4D, 2D]`, gates in the order input, forget, candidate, output.
        bias_4D: Sum of both biases.

    Returns:
        The next hidden and cell state, `[B, D]` each; the hidden state is also the output.
    """
    gates = F.linear(torch.cat([x_BD, hidden_BD], dim=-1), weight_4D_2D, bias_4D)
    i, f, g, o = gates.chunk(4, dim=-1)
    cell_BD = f.sigmoid() * cell_BD + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell_BD.tanh(), cell_BD
