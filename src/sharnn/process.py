"""What a process does best before its work begins; none of it changes a result."""

from __future__ import annotations

import ctypes
import functools
import os

#: How long PyTorch's OpenMP threads (GNU's) busy-wait for each other before they sleep; read when torch
#: is first imported. By default they spin so long that one other busy process makes a training step
#: fifty times slower; this costs nothing on a quiet machine (EXPERIMENTS.md).
_SPIN_COUNT = "2000"

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST_KEPT_BYTES = 1 << 30


def wait_briefly() -> None:
    """Let threads sleep soon where they wait for each other; call it before torch is imported."""
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep the memory that tensors free, for the next ones.

    By default glibc gives every freed block over 32 MiB back to the system, and each new one costs a
    page fault for every 4 KiB: up to 7% of a training step (EXPERIMENTS.md). PyTorch has no allocator of
    its own on a CPU. Does nothing with other C libraries, or where the user has set
    glibc's thresholds.
    """
    chosen = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"}
    if chosen & os.environ.keys():
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
