"""Reading whole segments in lower precision: prompts, and texts to score.

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
    """`LanguageModel.hidden` with matrix products in lower precision, where the hardware is faster in it.

    bfloat16 uses autocast. int8 uses the matrix products of a decoding step for LSTM and Boom, for many
    tokens at once. All else is as in the model's forward pass, including memory rows and softmax.

    Args:
        model: In evaluation mode.
        stored: Dtype of the weights.
        kernels: The same weights in the kernels' layout; required for int8.
        window: Rows that a position reaches; the model's at each call when not given.
    """

    def __init__(
        self,
        model: LanguageModel,
        stored: torch.dtype,
        kernels: KernelWeights | None,
        window: int | None = None,
    ) -> None:
        self.model, self._window = model, window
        own = model.embedding.weight.dtype  # autocast leaves float64 alone
        self._few_bits = (
            stored.itemsize < 4 and own != torch.float64 and has_fast_bf16(model.device)
        )
        self._ops: list[Ops] | None = None
        if kernels is not None and stored == torch.int8:
            self._ops = [_ops_of(model.ops, kernels, layer) for layer in range(len(model.blocks))]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings to report with a score."""
        return {"dtype": "bf16" if self._ops is None else "int8"}

    def __call__(self, tokens_BT: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Return the softmax's inputs, `[B, T, D]`, and the next state; see `hidden`."""
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self._few_bits):
            hidden_BTD, state = self.model.hidden(tokens_BT, state, self._ops, self._window)
        return hidden_BTD.to(self.model.embedding.weight.dtype), state  # a final LSTM returns bf16


@torch.no_grad()
def scoring_reader(model: LanguageModel, dtype: str) -> SegmentReader | None:
    """Return a reader that scores texts in `dtype`; None for `fp32`, the model's own forward pass.

    Raises:
        ConfigError: The dtype is unknown, or would not be faster than fp32 on this machine.
    """
    if dtype not in ("fp32", "bf16", "int8"):
        raise ConfigError(f"dtype '{dtype}' is unknown: give fp32, bf16 or int8")
    if dtype == "fp32":
        return None
    if model.config.architecture == "transformer":
        raise ConfigError(
            f"dtype {dtype}: a transformer is scored in its weights' own dtype, give fp32"
        )
    stored, kernels = STORED[dtype], None
    if dtype == "bf16" and not has_fast_bf16(model.device):
        raise ConfigError(
            "dtype bf16 needs hardware with fast bf16 matrix products: give fp32 or int8"
        )
    if dtype == "int8":
        if not kernel_step.available(stored, stored, model.device):
            raise ConfigError(
                "dtype int8 needs a CPU and the C++ kernels, which are not available: give fp32"
            )
        layers = [pack(block, stored) for block in model.typed_blocks]
        kernels = KernelWeights(layers, pack_norm(model.final_norm, stored), model.config.residual)
    return SegmentReader(model, stored, kernels)


def _ops_of(ops: Ops, kernels: KernelWeights, layer: int) -> Ops:
    """Return a block's operations in int8: those of a step, for many tokens at once."""

    def lstm(x_BTD: Tensor, hidden_BD: Tensor, cell_BD: Tensor, _: Sequence[Tensor]) -> LstmResult:
        y_BTD, hidden_BD, cell_BD = kernels.lstm(layer, x_BTD, hidden_BD, cell_BD)
        return y_BTD.to(x_BTD.dtype), hidden_BD, cell_BD

    def boom(x_BTD: Tensor, *_: object) -> Tensor:
        return kernels.boom(layer, x_BTD).to(x_BTD.dtype)

    return replace(ops, lstm=lstm, boom=boom)
