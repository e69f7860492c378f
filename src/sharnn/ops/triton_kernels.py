"""Boom's pointwise operations and recall as Triton kernels for CUDA, each in one pass.

PyTorch's own operations would write and read F-wide tensors four times in the forward pass and six times
in the backward pass, and recall would be a loop over tokens.

Legend: N positions · D embed_dim · F boom_dim = C chunks · D · B lanes · T tokens · O orders · S slots.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from sharnn.ops.reference import GELU_SLOPE, PLACE_BITS, TOKEN_BITS

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch for CPUs, or a system that Triton does not support
    triton = None

#: The most features that a program processes.
_MOST_FEATURES = 1024


def available(x: Tensor) -> bool:
    """Return whether there are kernels for such tensors; Triton's interpreter accepts any device."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return triton is not None and (x.is_cuda or interpreted) and x.dtype != torch.float64


def boom_sum(z_NF: Tensor, dim: int, rate: float, seed: int) -> Tensor:
    """Equal `pointwise.boom_sum`."""
    out_ND = z_NF.new_empty(z_NF.shape[0], dim)
    _boom_sum[_grid(out_ND)](
        z_NF, out_ND, dim, z_NF.shape[1] // dim, float(rate), _as_int32(seed),
        SLOPE=GELU_SLOPE, BLOCK=_block(dim),
    )  # fmt: skip
    return out_ND


def boom_sum_backward(z_NF: Tensor, out_grad_ND: Tensor, rate: float, seed: int) -> Tensor:
    """Equal `pointwise.boom_sum_backward`."""
    z_grad_NF, dim = torch.empty_like(z_NF), out_grad_ND.shape[1]
    _boom_sum_backward[_grid(out_grad_ND)](
        z_NF, out_grad_ND, z_grad_NF, dim, z_NF.shape[1] // dim, float(rate), _as_int32(seed),
        SLOPE=GELU_SLOPE, BLOCK=_block(dim),
    )  # fmt: skip
    return z_grad_NF


def recall(text: Tensor, key_BOT: Tensor, slots_BOS: Tensor) -> Tensor:
    """Look up followers and update the given tables; see `reference.recall`.

    Args:
        text: The segment's tokens, `[B, T]`, int64.
        key_BOT: Keys of the n-grams before each token, and finally of those at the end of the segment.
        slots_BOS: The tables.

    Returns:
        `[B, T, O, 2]`.
    """
    num_lanes, num_tokens = text.shape
    found = text.new_empty(num_lanes, num_tokens, *slots_BOS.shape[1:2], 2)
    # One warp for each table: the barrier between write and read then costs almost nothing.
    _recall[(num_lanes * slots_BOS.shape[1],)](
        text.contiguous(), key_BOT.contiguous(), slots_BOS, found,
        num_tokens, *slots_BOS.shape[1:], TOKEN=TOKEN_BITS, PLACE=PLACE_BITS, num_warps=1,
    )  # fmt: skip
    return found


def _block(dim: int) -> int:
    """Return the number of features that a program processes, a power of two."""
    return min(triton.next_power_of_2(dim), _MOST_FEATURES)


def _grid(out_ND: Tensor) -> tuple[int, int]:
    num_positions, dim = out_ND.shape
    return num_positions, triton.cdiv(dim, _block(dim))


def _as_int32(seed: int) -> int:
    """Return the signed number with the same 32 bits: a kernel is compiled anew for each integer type."""
    return seed - (1 << 32) if seed >= 1 << 31 else seed


if triton is not None:

    @triton.jit
    def _dropped(at, seed, rate):  # type: ignore[no-untyped-def]
        """Return whether an element is dropped: MurmurHash3's finaliser over its index and the seed."""
        h = at.to(tl.uint32) * 0x9E3779B1 + seed.to(tl.uint32)
        h = (h ^ (h >> 16)) * 0x85EBCA6B
        h = (h ^ (h >> 13)) * 0xC2B2AE35
        h = h ^ (h >> 16)
        return (h >> 8).to(tl.float32) * (1 / (1 << 24)) < rate

    @triton.jit(do_not_specialize=["seed"])
    def _boom_sum(  # type: ignore[no-untyped-def]
        z, out, dim, num_chunks, rate, seed, SLOPE: tl.constexpr, BLOCK: tl.constexpr
    ) -> Any:
        """Each program sums the chunks of BLOCK features of one position."""
        position, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = d < dim
        total = tl.zeros([BLOCK], tl.float32)
        for chunk in range(num_chunks):
            at = (position * num_chunks + chunk) * dim + d
            x = tl.load(z + at, mask=inside, other=0.0).to(tl.float32)
            y = x * tl.sigmoid(SLOPE * x)
            if rate > 0:
                y = tl.where(_dropped(at, seed, rate), 0.0, y / (1 - rate))
            total += y
        tl.store(out + position * dim + d, total.to(out.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["seed"])
    def _boom_sum_backward(  # type: ignore[no-untyped-def]
        z, out_grad, z_grad, dim, num_chunks, rate, seed, SLOPE: tl.constexpr, BLOCK: tl.constexpr
    ) -> Any:
        """Each program propagates BLOCK gradients of one position to all chunks."""
        position, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = d < dim
        grad = tl.load(out_grad + position * dim + d, mask=inside, other=0.0).to(tl.float32)
        for chunk in range(num_chunks):
            at = (position * num_chunks + chunk) * dim + d
            x = tl.load(z + at, mask=inside, other=0.0).to(tl.float32)
            s = tl.sigmoid(SLOPE * x)
            dx = grad * s * (1 + SLOPE * x * (1 - s))
            if rate > 0:
                dx = tl.where(_dropped(at, seed, rate), 0.0, dx / (1 - rate))
            tl.store(z_grad + at, dx.to(z_grad.dtype.element_ty), mask=inside)

    @triton.jit
    def _recall(  # type: ignore[no-untyped-def]
        text, keys, slots, found, num_tokens, num_orders, num_slots,
        TOKEN: tl.constexpr, PLACE: tl.constexpr,
    ) -> Any:  # fmt: skip
        """Each program reads the segment of one lane with the table of one order."""
        job = tl.program_id(0).to(tl.int64)
        lane, order = job // num_orders, job % num_orders
        table, key_at = slots + job * num_slots, keys + job * (num_tokens + 1)
        key = tl.load(key_at)
        for t in range(num_tokens):
            place, rest = table + (key & (num_slots - 1)), key >> PLACE
            entry = tl.load(place)
            known = tl.where((entry >> (2 * TOKEN)) == rest, entry & ((1 << (2 * TOKEN)) - 1), 0)
            follower = tl.load(text + lane * num_tokens + t) + 1
            entry = (rest << (2 * TOKEN)) | (follower << TOKEN) | (known >> TOKEN)
            tl.store(place, entry)
            tl.debug_barrier()
            key = tl.load(key_at + t + 1)
            entry = tl.load(table + (key & (num_slots - 1)))
            known = tl.where(
                (entry >> (2 * TOKEN)) == (key >> PLACE), entry & ((1 << (2 * TOKEN)) - 1), 0
            )
            out = found + ((lane * num_tokens + t) * num_orders + order) * 2
            tl.store(out, (known >> TOKEN) - 1)
            tl.store(out + 1, (known & ((1 << TOKEN) - 1)) - 1)
