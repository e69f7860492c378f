"""Reading whole segments with weights in fewer bits: prompts, and texts to score.

Legend: B lanes · T tokens · D embed_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sharnn.errors import ConfigError
from sharnn.generation import kernel_step
from sharnn.generation.kernel_step import KernelWeights
from sharnn.generation.packed_weights import STORED, pack, pack_norm
from sharnn.model import LanguageModel, RecurrentState
from sharnn.ops import Ops
from sharnn.ops.matmul import has_fast_bf16
from sharnn.ops.reference import LstmResult


class SegmentReader:
    """`LanguageModel.hidden` with products in fewer bits, where the hardware is quicker in them.

    bfloat16 runs under autocast; int8 takes the products of a decoding step, many tokens at once, for
    LSTM and Boom. All else is as the model's forward pass has it, memory rows and softmax too.

    Args:
        model: In evaluation mode.
        stored: What weights are kept as.
        kernels: The same weights as the kernels read them; int8 needs them.
    """

    def __init__(
        self, model: LanguageModel, stored: torch.dtype, kernels: KernelWeights | None
    ) -> None:
        self.model = model
        own = model.embedding.weight.dtype  # autocast leaves float64 alone
        self._few_bits = (
            stored.itemsize < 4 and own != torch.float64 and has_fast_bf16(model.device)
        )
        self._ops: list[Ops] | None = None
        if kernels is not None and stored == torch.int8:
            self._ops = [_ops_of(model.ops, kernels, layer) for layer in range(len(model.blocks))]

    @property
    def settings(self) -> dict[str, Any]:
        """What a score should say of it."""
        return {"dtype": "bf16" if self._ops is None else "int8"}

    def __call__(self, tokens_BT: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Return what the softmax reads, `[B, T, D]`, and the next state; see `hidden`."""
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self._few_bits):
            hidden_BTD, state = self.model.hidden(tokens_BT, state, self._ops)
        return hidden_BTD.to(self.model.embedding.weight.dtype), state  # a last LSTM leaves bf16


@torch.no_grad()
def scoring_reader(model: LanguageModel, dtype: str) -> SegmentReader | None:
    """Return what reads a text to score in `dtype`; None for `fp32`, the model's own forward pass.

    Raises:
        ConfigError: The dtype is unknown, or would not be quicker than fp32 here.
    """
    if dtype not in ("fp32", "bf16", "int8"):
        raise ConfigError(f"dtype '{dtype}' is unknown: give fp32, bf16 or int8")
    if dtype == "fp32":
        return None
    if model.config.architecture == "transformer":
        raise ConfigError(f"dtype {dtype}: a transformer is read in its weights' own dtype")
    stored, kernels = STORED[dtype], None
    if dtype == "bf16" and not has_fast_bf16(model.device):
        raise ConfigError("dtype bf16 needs a processor that multiplies it: give fp32 or int8")
    if dtype == "int8":
        if not kernel_step.available(stored, stored, model.device):
            raise ConfigError(
                "dtype int8 needs a CPU and its kernels, which are not there: give fp32"
            )
        layers = [pack(block, stored) for block in model.typed_blocks]
        kernels = KernelWeights(layers, pack_norm(model.final_norm, stored), model.config.residual)
    return SegmentReader(model, stored, kernels)


def _ops_of(ops: Ops, kernels: KernelWeights, layer: int) -> Ops:
    """Return a block's operations with int8: those of a step, many tokens at once."""

    def lstm(x_BTD: Tensor, hidden_BD: Tensor, cell_BD: Tensor, _: Sequence[Tensor]) -> LstmResult:
        y_BTD, hidden_BD, cell_BD = kernels.lstm(layer, x_BTD, hidden_BD, cell_BD)
        return y_BTD.to(x_BTD.dtype), hidden_BD, cell_BD

    def boom(x_BTD: Tensor, *_: object) -> Tensor:
        return kernels.boom(layer, x_BTD).to(x_BTD.dtype)

    return replace(ops, lstm=lstm, boom=boom)
