"""Matrix products with the fastest library that PyTorch contains.

On a CPU, PyTorch computes float32 products with MKL. oneDNN, which it uses for bfloat16, is up to a
quarter faster on processors by others than Intel. But it packs the second matrix first, which pays off
only if the first one has many rows and is contiguous (EXPERIMENTS.md).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sharnn import machine

#: Number of rows from which packing a matrix for a single product pays off.
_MIN_ROWS = 1024


def product(a_NK: Tensor, b_MK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """Return `a bᵀ + bias`, `[N, M]`, for use inside autograd functions: it may have no gradient."""
    packing_pays = a_NK.shape[0] >= _MIN_ROWS and a_NK.is_contiguous()
    if a_NK.dtype == torch.float32 and packing_pays and has_onednn(a_NK):
        return multiply_packed(a_NK, b_MK, bias_M)
    return torch.nn.functional.linear(a_NK, b_MK, bias_M)


def multiply_packed(a_NK: Tensor, b_MK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """Return `a bᵀ + bias`, computed by oneDNN with `b` packed for this product only."""
    return _onednn(a_NK, _pack(b_MK, a_NK.shape[0]), bias_M)


def products(a_GNK: Tensor, b_GMK: Tensor) -> Tensor:
    """Return `a bᵀ` of G pairs, `[G, N, M]`; may have no gradient, like `product`."""
    if len(a_GNK) == 1:
        return product(a_GNK[0], b_GMK[0])[None]
    return torch.bmm(a_GNK, b_GMK.transpose(1, 2))


def in_autocast_dtype(x: Tensor) -> Tensor:
    """Return `x` in autocast's dtype if autocast is on, else unchanged."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def has_onednn(x: Tensor) -> bool:
    """Return whether oneDNN can multiply tensors with this device and dtype in this process."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not _multiplies_packed_rightly(torch.get_num_threads()):
        return False
    if x.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return x.dtype == torch.float32


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bf16 matrices faster than fp32, and the level allows it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if machine.level() != "native":
        return False
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


@functools.cache
def _multiplies_packed_rightly(num_threads: int) -> bool:
    """Return whether a product with a packed matrix equals a plain product in this process.

    It does not if OpenMP gives fewer threads than the matrix was packed for: the results of the missing
    threads are then uninitialised memory.
    """
    if machine.threads_vary():
        return False
    a_NK, b_MK = (
        torch.linspace(-1, 1, count * 64, dtype=torch.float32).view(count, 64)
        for count in (64 * num_threads, 64)
    )
    with torch.autocast("cpu", enabled=False):
        found = _onednn(a_NK, _pack(b_MK, len(a_NK)), None)
        return torch.allclose(found, a_NK @ b_MK.t(), atol=1e-3)


def _pack(weight_MK: Tensor, num_rows: int) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight_MK, num_rows)


def _onednn(x_NK: Tensor, matrix: Tensor, bias_M: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x_NK, matrix, bias_M, "none", [], "")
