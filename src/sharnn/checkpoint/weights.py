"""Smaller dtypes for weights on disk: converted when written, and back to float32 when read.

| `weights` in config.json | matrices, including the embedding | all else |
|---|---|---|
| `fp32`, or absent | float32 | float32 |
| `bf16` | bfloat16 | float32 |
| `int8` | `NAME` int8 `[rows, columns]` and `NAME.scale` float32 `[rows]` | float32 |

Vectors, gates, norms and biases are few and affect every value, so they stay in float32. A tensor with
more dimensions is a matrix whose columns are its last dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sharnn.checkpoint import format as fmt
from sharnn.errors import CheckpointError, ConfigError
from sharnn.ops.quantize import quantized

WEIGHT_DTYPES = ("fp32", "bf16", "int8")

_SCALE = ".scale"
#: Low bits that are cleared in a float32 scale. Its remaining 17 bits and an integer's 7 fit in the 24 of
#: a float32, so their products are exact. Weights that are loaded and quantized again, for a decoder or
#: another file, therefore give the same integers and the same scale.
_SCALE_DROPPED_BITS = 7


def check_dtype(dtype: str) -> None:
    """Refuse a dtype in which weights can't be written.

    Raises:
        ConfigError: The dtype is unknown.
    """
    if dtype not in WEIGHT_DTYPES:
        raise ConfigError(f"weights can't be saved as '{dtype}': give {', '.join(WEIGHT_DTYPES)}")


def pack_weights(weights: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Return weights as they are written in `dtype`, one of `WEIGHT_DTYPES`.

    Raises:
        CheckpointError: The dtype is int8, which cannot represent values that are not finite.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if dtype == "fp32" or not _is_matrix(tensor):
            packed[name] = tensor.float() if tensor.is_floating_point() else tensor
        elif dtype == "bf16":
            packed[name] = tensor.bfloat16()
        else:
            packed[name], packed[name + _SCALE] = _quantized(name, tensor)
    return packed


def unpack_weights(tensors: Mapping[str, Tensor], dtype: str, path: Path) -> dict[str, Tensor]:
    """Return the weights in a file as float32.

    Args:
        tensors: All tensors in the file.
        dtype: The dtype that `config.json` declares.
        path: The file, for error messages.

    Raises:
        CheckpointError: A scale is missing or invalid, or the file has another dtype.
    """
    integers = {name: t for name, t in tensors.items() if t.dtype == torch.int8}
    if integers and dtype != "int8":
        raise CheckpointError(
            f"{path} has {next(iter(integers))} in int8, but {fmt.CONFIG} beside it declares {dtype}: "
            "they are not from the same folder"
        )
    weights = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    for name, matrix in integers.items():
        scale = weights.pop(name + _SCALE, None)
        if scale is None:
            raise CheckpointError(
                f"{path} has no {name}{_SCALE}, which is needed to read {name}: it was altered, save or "
                "download the model again"
            )
        if scale.shape != matrix.shape[:-1] or not (scale.isfinite() & (scale >= 0)).all():
            raise CheckpointError(
                f"{path}: {name}{_SCALE} is not a valid scale for the {matrix.shape[:-1].numel()} rows "
                f"of {name}: it was altered, save or download the model again"
            )
        weights[name] = matrix.float() * scale[..., None]
    return weights


def _is_matrix(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.ndim < 2:
        return False
    return tensor.numel() > tensor.shape[-1] > 1  # more than one row of more than one column


def _quantized(name: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    if not matrix.isfinite().all():
        raise CheckpointError(
            f"{name} contains values that are not finite, which int8 cannot represent: save another "
            "checkpoint, or use fp32"
        )
    integers, scale = quantized(matrix)
    half, digits = 1 << (_SCALE_DROPPED_BITS - 1), -1 << _SCALE_DROPPED_BITS
    return integers, ((scale.view(torch.int32) + half) & digits).view(torch.float32)
