"""Calls of the kernels in `kernels.cpp` and `recurrence.cpp` with tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from sharnn.kernels import load

_POINTWISE, _RECURRENCE = (
    Path(__file__).with_name(name) for name in ("kernels.cpp", "recurrence.cpp")
)
_STORED = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16"}


def available(x: Tensor) -> bool:
    """Return whether there are kernels for tensors with this device and dtype."""
    return x.device.type == "cpu" and x.dtype in _STORED and _library(x.dtype) is not None


def recurrence_available(x: Tensor) -> bool:
    """Return whether there are LSTM kernels for tensors with this device and dtype."""
    return available(x) and x.dtype != torch.float64


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float) -> None:
    """Call a kernel; the number of threads is appended as its last argument.

    Args:
        name: Name of the kernel in the source.
        dtype: The dtype of the build.
        arguments: Dense tensors, sizes and seeds (int) and rates (float), in the kernel's order.
    """
    source = _RECURRENCE if name in ("lstm_forward", "lstm_backward") else _POINTWISE
    library = _library(dtype, source)
    assert library is not None
    getattr(library, name)(*map(_as_argument, arguments), torch.get_num_threads())


def _as_argument(value: Tensor | int | float) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_double(value)


def _library(dtype: torch.dtype, source: Path = _POINTWISE) -> ctypes.CDLL | None:
    return load(source, f"STORED={_STORED[dtype]}")
