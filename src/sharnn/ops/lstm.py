"""The LSTM: with our own kernels on a CPU, elsewhere with PyTorch's (cuDNN on CUDA).

Legend: B lanes · T tokens · D embed_dim · N = B T.

Products that do not depend on the previous token are computed for the whole segment at once: those with
the inputs and, in the backward pass, those for the gradients of inputs and weights. The rest is one call
of `recurrence.cpp`, which packs the recurrent matrix once and then does a product and the pointwise work
for each token. PyTorch's own backward pass on a CPU (oneDNN's) slows down when the matrices are larger
than a core's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sharnn.ops import compiled
from sharnn.ops.matmul import in_autocast_dtype, product
from sharnn.ops.reference import LstmResult


def lstm(
    x_BTD: Tensor, hidden_BD: Tensor, cell_BD: Tensor, weights: Sequence[Tensor]
) -> LstmResult:
    """Equal `reference.lstm` in outputs and gradients."""
    x_BTD = in_autocast_dtype(x_BTD)
    if not compiled.recurrence_available(x_BTD):
        return lstm_of_pytorch(x_BTD, hidden_BD, cell_BD, weights)
    weight_ih, weight_hh, bias_ih, bias_hh = (weight.to(x_BTD.dtype) for weight in weights)
    y_BTD, cell_BD = _Lstm.apply(x_BTD, hidden_BD, cell_BD, weight_ih, weight_hh, bias_ih + bias_hh)
    return y_BTD, y_BTD[:, -1].clone(), cell_BD


def lstm_of_pytorch(
    x_BTD: Tensor, hidden_BD: Tensor, cell_BD: Tensor, weights: Sequence[Tensor]
) -> LstmResult:
    """Run PyTorch's LSTM in the dtype of `x`; autocast is off, as it would make cuDNN always use fp16."""
    state = [x.to(x_BTD.dtype)[None] for x in (hidden_BD, cell_BD)]
    with torch.autocast(x_BTD.device.type, enabled=False):
        y_BTD, hidden, cell = torch.lstm(
            x_BTD, state, _in_one_piece(weights, x_BTD.dtype), True, 1, 0.0,
            torch.is_grad_enabled(), False, True,
        )  # fmt: skip
    return y_BTD, hidden[0], cell[0]


def _in_one_piece(weights: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the weights as views of one tensor, as cuDNN expects them; it would copy them otherwise."""
    sizes = [weight.numel() for weight in weights]
    parts = torch.cat([weight.to(dtype).flatten() for weight in weights]).split(sizes)
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


class _Lstm(torch.autograd.Function):
    """`(x, hidden, cell, weights) → (y, last cell)`; cells stay in float32.

    Forward, for t = 1 … T, with W = weight_ih, U = weight_hh and the sum b of both biases:

        (zi, zf, zg, zo) = W x_t + U h_{t-1} + b
        i = σ(zi)    f = σ(zf)    g = tanh(zg)    o = σ(zo)
        c_t = f ⊙ c_{t-1} + i ⊙ g      y_t = h_t = o ⊙ tanh(c_t)

    Backward, for t = T … 1, where dX is the gradient of the loss with respect to X. dy_t comes from the
    outputs. The recurrence begins with dz_{T+1} = 0 and f_{T+1} ⊙ dc_{T+1} = the gradient of the last
    cell; the last hidden state is y_T, so its gradient is part of dy_T:

        dh_t = dy_t + Uᵀ dz_{t+1}
        dc_t = f_{t+1} ⊙ dc_{t+1} + dh_t ⊙ o ⊙ (1 - tanh²(c_t))
        dzi = dc_t ⊙ g ⊙ i ⊙ (1 - i)              dzf = dc_t ⊙ c_{t-1} ⊙ f ⊙ (1 - f)
        dzg = dc_t ⊙ i ⊙ (1 - g²)                 dzo = dh_t ⊙ tanh(c_t) ⊙ o ⊙ (1 - o)
        dh_0 = Uᵀ dz_1      dc_0 = f_1 ⊙ dc_1     (after the last step)

    `lstm_backward` in `recurrence.cpp` computes these. For all tokens at once follow

        dx_t = Wᵀ dz_t      dW = Σ_t dz_t x_tᵀ      dU = Σ_t dz_t h_{t-1}ᵀ      db = Σ_t dz_t
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        hidden_BD: Tensor,
        cell_BD: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_4D: Tensor,
    ) -> tuple[Tensor, Tensor]:
        num_lanes, num_tokens, dim = x_BTD.shape
        x_TBD = x_BTD.transpose(0, 1).contiguous()
        gates_TB4D = product(x_TBD.view(-1, dim), weight_ih, bias_4D).view(-1, num_lanes, 4 * dim)
        cells = x_TBD.new_empty(num_tokens + 1, num_lanes, dim, dtype=torch.float32)
        cells[0] = cell_BD
        # h_0 … h_T: the backward pass needs h_0 … h_{T-1} in one piece.
        hiddens = x_TBD.new_empty(num_tokens + 1, num_lanes, dim)
        hiddens[0] = hidden_BD
        compiled.call(
            "lstm_forward", x_BTD.dtype,
            weight_hh.contiguous(), gates_TB4D, cells, hiddens, num_lanes, num_tokens, dim,
        )  # fmt: skip
        ctx.save_for_backward(x_TBD, hiddens, cells, gates_TB4D, weight_ih, weight_hh)
        ctx.state_dtypes = hidden_BD.dtype, cell_BD.dtype
        return hiddens[1:].transpose(0, 1).contiguous(), cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y_grad_BTD: Tensor, cell_grad_BD: Tensor) -> tuple[Tensor, ...]:
        x_TBD, hiddens, cells, gates_TB4D, weight_ih, weight_hh = ctx.saved_tensors
        num_tokens, num_lanes, dim = x_TBD.shape
        cell_grad = cell_grad_BD.to(torch.float32, copy=True).contiguous()
        hidden_grad, gate_grads_TB4D = torch.empty_like(cell_grad), torch.empty_like(gates_TB4D)
        compiled.call(
            "lstm_backward", x_TBD.dtype,
            weight_hh.contiguous(), gates_TB4D, cells, y_grad_BTD.transpose(0, 1).contiguous(),
            cell_grad, hidden_grad, gate_grads_TB4D, num_lanes, num_tokens, dim,
        )  # fmt: skip
        gate_grads_N4D = gate_grads_TB4D.view(-1, 4 * dim)
        x_grad_TBD = product(gate_grads_N4D, weight_ih.t()).view_as(x_TBD)
        return (
            x_grad_TBD.transpose(0, 1),
            hidden_grad.to(ctx.state_dtypes[0]),
            cell_grad.to(ctx.state_dtypes[1]),
            product(gate_grads_N4D.t(), x_TBD.view(-1, dim).t()),
            product(gate_grads_N4D.t(), hiddens[:-1].view(-1, dim).t()),
            gate_grads_N4D.sum(0),
        )
