"""Weights in fewer bits on disk: packed when they are written, float32 again when they are read.

| `weights` in config.json | matrices, the embedding's among them | all else |
|---|---|---|
| `fp32`, or not there | float32 | float32 |
| `bf16` | bfloat16 | float32 |
| `int8` | `NAME` int8 `[rows, columns]` and `NAME.scale` float32 `[rows]` | float32 |

Vectors, gates, norms and biases are few and all is multiplied by them, so they stay whole. A tensor of
more dimensions is a matrix whose columns are the last.
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
#: Bits of a float32 that a scale does without. Its 17 digits and an integer's 7 are the 24 of a
#: float32: products of both are exact, so that what was read and is rounded again, for a decoder or
#: another file, gives the same integers and the same scale.
_SCALE_DROPPED_BITS = 7


def check_dtype(dtype: str) -> None:
    """Refuse what weights can't be written in.

    Raises:
        ConfigError: There is no such dtype.
    """
    if dtype not in WEIGHT_DTYPES:
        raise ConfigError(f"weights can't be saved as '{dtype}': give {', '.join(WEIGHT_DTYPES)}")


def pack_weights(weights: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Return weights as they are written in `dtype`, one of `WEIGHT_DTYPES`.

    Raises:
        CheckpointError: Values that are not finite have no integers.
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
        tensors: All that the file holds.
        dtype: What `config.json` says of it.
        path: The file, for errors.

    Raises:
        CheckpointError: A scale is missing or does not fit, or the file is of another dtype.
    """
    integers = {name: t for name, t in tensors.items() if t.dtype == torch.int8}
    if integers and dtype != "int8":
        raise CheckpointError(
            f"{path} holds {next(iter(integers))} in int8, {fmt.CONFIG} beside it speaks of {dtype}: "
            "they are not from the same folder"
        )
    weights = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    for name, matrix in integers.items():
        scale = weights.pop(name + _SCALE, None)
        if scale is None:
            raise CheckpointError(
                f"{path} has no {name}{_SCALE}, without which {name} cannot be read: it was altered, "
                "write or fetch the model again"
            )
        if scale.shape != matrix.shape[:-1] or not (scale.isfinite() & (scale >= 0)).all():
            raise CheckpointError(
                f"{path}: {name}{_SCALE} is no scale for the {matrix.shape[:-1].numel()} rows of {name}: "
                "it was altered, write or fetch the model again"
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
            f"{name} holds values that are not finite, int8 has none for them: save another "
            "checkpoint, or as fp32"
        )
    integers, scale = quantized(matrix)
    half, digits = 1 << (_SCALE_DROPPED_BITS - 1), -1 << _SCALE_DROPPED_BITS
    return integers, ((scale.view(torch.int32) + half) & digits).view(torch.float32)
