"""The LSTM: on a CPU its own loop over kernels, elsewhere through PyTorch's (cuDNN on CUDA).

Legend: B lanes · T tokens · D embed_dim · N = B T.

What does not wait for the last token is done for the whole segment at once: the products with the
inputs, and in the backward pass those that give the gradients of inputs and weights. What is left is one
call of `recurrence.cpp`, which packs a matrix, multiplies with it and does the pointwise work, for one
token after the other. PyTorch's own backward on a CPU (oneDNN's) loses its pace once the matrices outgrow
a core's cache.
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
    """Run PyTorch's LSTM in the dtype of `x`: under autocast cuDNN's would run in fp16, come what may."""
    state = [x.to(x_BTD.dtype)[None] for x in (hidden_BD, cell_BD)]
    with torch.autocast(x_BTD.device.type, enabled=False):
        y_BTD, hidden, cell = torch.lstm(
            x_BTD, state, _in_one_piece(weights, x_BTD.dtype), True, 1, 0.0,
            torch.is_grad_enabled(), False, True,
        )  # fmt: skip
    return y_BTD, hidden[0], cell[0]


def _in_one_piece(weights: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the weights as views of one tensor, as cuDNN wants them: it would copy them otherwise."""
    sizes = [weight.numel() for weight in weights]
    parts = torch.cat([weight.to(dtype).flatten() for weight in weights]).split(sizes)
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


class _Lstm(torch.autograd.Function):
    """`(x, hidden, cell, weights) → (y, last cell)`; cells stay in float32."""

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
        # The hidden states with the first one before them: the backward pass wants them so.
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
