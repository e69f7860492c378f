"""Weights packed for decoding: gates and biases folded in, optionally in lower precision.

Legend: B lanes · D embed_dim · C chunks of Boom · K columns of a matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sharnn.model.attention import NORM_EPS
from sharnn.model.block import Block, LstmBlock, ShaRnnBlock, lstm_weights
from sharnn.ops.matmul import has_fast_bf16
from sharnn.ops.quantize import integer_product, quantized

#: Dtypes in which weights and memory rows can be stored; float64 is for tests.
STORED = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "fp64": torch.float64,
}


class Matrix:
    """`x Wᵀ + b` with W in float32, bfloat16 or int8; x and the result are float32.

    With int8, each row of W has a scale, and x is quantized too, with a scale for each lane. The integer
    products are then exact.

    Attributes:
        weight: `[rows, K]`.
        bias: `[rows]`.
        scale: `[rows]` for int8, else None.
    """

    scale: Tensor | None = None

    def __init__(self, weight: Tensor, bias: Tensor | None, stored: torch.dtype) -> None:
        weight = weight.detach()
        computed = torch.float64 if stored == torch.float64 else torch.float32
        if stored == torch.int8:
            self.weight, self.scale = quantized(weight)
        else:
            self.weight = weight.to(stored, memory_format=torch.contiguous_format, copy=True)
        zeros = torch.zeros(weight.shape[0], dtype=computed, device=weight.device)
        self.bias = zeros if bias is None else bias.detach().to(computed, copy=True)

    def __call__(self, x_BK: Tensor) -> Tensor:
        """Return `[B, rows]`."""
        if self.scale is None:
            weight = self.weight
            if weight.dtype == torch.bfloat16 and not has_fast_bf16(weight.device):
                weight = weight.float()
            return F.linear(x_BK.to(weight.dtype), weight).to(x_BK.dtype) + self.bias
        integers_BK, scale_B = quantized(x_BK)
        product = integer_product(integers_BK, self.weight)
        return product * (scale_B[:, None] * self.scale) + self.bias


@dataclass(frozen=True)
class Norm:
    """A LayerNorm, with gain and bias `[D]`."""

    gain: Tensor
    bias: Tensor

    def __call__(self, x_BD: Tensor) -> Tensor:
        """Return `x` normalised."""
        return F.layer_norm(x_BD, x_BD.shape[-1:], self.gain, self.bias, NORM_EPS)


@dataclass(frozen=True)
class PackedHead:
    """The attention head; `query_scale` combines the gates of query and key with 1 / √D."""

    mid: Norm
    memory: Norm
    query: Matrix
    query_norm: Norm
    query_scale: Tensor
    value_gate: Tensor
    reads_next: bool


@dataclass(frozen=True)
class PackedLayer:
    """Weights of a block.

    Attributes:
        start: Norm before the LSTM, or None.
        from_input: `[4D, D]`, with the sum of both biases.
        from_hidden: `[4D, D]`, without a bias.
        head: The attention head; None where the block does not attend.
        skip: Norm of Boom's skip connection in the paper's wiring.
        boom_norm: Norm before Boom; None for the plain LSTM, like `boom`.
        boom: `[C D, D]`, whole chunks only.
    """

    start: Norm | None
    from_input: Matrix
    from_hidden: Matrix
    head: PackedHead | None = None
    skip: Norm | None = None
    boom_norm: Norm | None = None
    boom: Matrix | None = None


def pack(block: Block, stored: torch.dtype) -> PackedLayer:
    """Return the weights of a block of the SHA-RNN or plain LSTM, with matrices in dtype `stored`."""
    assert isinstance(block, ShaRnnBlock | LstmBlock)
    weight_ih, weight_hh, bias_ih, bias_hh = lstm_weights(block.lstm)
    start = None if block.start_norm is None else _norm(block.start_norm, stored)
    from_input = Matrix(weight_ih, bias_ih + bias_hh, stored)
    from_hidden = Matrix(weight_hh, None, stored)
    if isinstance(block, LstmBlock):
        return PackedLayer(start, from_input, from_hidden)
    boom = block.boom.linear
    used = boom.weight.shape[0] // block.dim * block.dim
    return PackedLayer(
        start,
        from_input,
        from_hidden,
        _pack_head(block, stored),
        None if block.residual else _norm(block.skip_norm, stored),
        _norm(block.boom_norm, stored),
        Matrix(boom.weight[:used], boom.bias[:used], stored),
    )


def _pack_head(block: ShaRnnBlock, stored: torch.dtype) -> PackedHead | None:
    head = block.attention
    if head is None:
        return None
    scale = head.query_gate.sigmoid() * head.key_gate.sigmoid() / math.sqrt(block.dim)
    return PackedHead(
        _norm(block.mid_norm, stored),
        _norm(block.memory_norm, stored),
        Matrix(head.query.weight, head.query.bias, stored),
        _norm(head.query_norm, stored),
        _computed(scale, stored),
        _computed(head.value_gate(), stored),
        head.reads_next,
    )


def pack_norm(norm: torch.nn.Module, stored: torch.dtype) -> Norm | None:
    """Return a LayerNorm's vectors; None for the identity."""
    return _norm(norm, stored) if isinstance(norm, torch.nn.LayerNorm) else None


def _norm(norm: torch.nn.LayerNorm, stored: torch.dtype) -> Norm:
    return Norm(_computed(norm.weight, stored), _computed(norm.bias, stored))


def _computed(x: Tensor, stored: torch.dtype) -> Tensor:
    """Return a vector in the dtype of computation."""
    dtype = torch.float64 if stored == torch.float64 else torch.float32
    return x.detach().to(dtype, memory_format=torch.contiguous_format, copy=True)
