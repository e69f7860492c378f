"""Recall in one pass over the tokens: `recall.cpp` on a CPU with a compiler, Triton on CUDA.

Elsewhere it is `reference.recall`.

Legend: B lanes · T tokens · N highest order · O orders · S slots.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sharnn import kernels
from sharnn.kernels.table import NGRAM_DEFINITIONS
from sharnn.ops import reference, triton_kernels

_SOURCE = Path(__file__).with_name("recall.cpp")


def recall(
    text: Tensor, slots_BOS: Tensor, orders: Sequence[int], in_place: bool = False
) -> tuple[Tensor, Tensor]:
    """Equal `reference.recall`."""
    if not in_place:  # dense in any case: the kernels require it
        slots_BOS = slots_BOS.clone(memory_format=torch.contiguous_format)
    if triton_kernels.available(text):
        keys = reference.recall_keys(text, orders)
        return triton_kernels.recall(text[:, max(orders) :], keys, slots_BOS), slots_BOS
    library = _library() if text.device.type == "cpu" else None
    if library is None:
        return reference.recall(text, slots_BOS, orders, in_place=True)
    text, longest = text.contiguous(), max(orders)
    num_lanes, num_tokens = text.shape[0], text.shape[1] - longest
    found = text.new_empty(num_lanes, num_tokens, len(orders), 2)
    tensors = text, slots_BOS, found, torch.tensor(orders)
    library.recall(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        *map(ctypes.c_int64, (num_lanes, num_tokens, longest, len(orders), slots_BOS.shape[2])),
        torch.get_num_threads(),
    )
    return found, slots_BOS


def _library() -> ctypes.CDLL | None:
    return kernels.load(_SOURCE, *NGRAM_DEFINITIONS)
