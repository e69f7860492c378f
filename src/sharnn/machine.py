"""What this machine is, told once: instruction sets, and what a process does best before its work.

`SHARNN_CPU=portable|avx2|avx512|native` bounds the instruction sets in use: those of our kernels,
PyTorch, oneDNN and MKL alike. So a machine with AVX-512 can test and measure what one with AVX2 does.
Nothing here imports torch: its libraries read their bounds when they are first used.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
from pathlib import Path

from sharnn.errors import ConfigError

#: The environment variable that bounds the instruction sets.
VARIABLE = "SHARNN_CPU"
#: What it may say, by rising demands. `native` is all that the processor has.
LEVELS = ("portable", "avx2", "avx512", "native")

#: What a level needs of an x86-64 processor, by the names of /proc/cpuinfo: x86-64-v2, -v3 and -v4.
_NEEDS = {
    "portable": {"sse4_2", "ssse3", "popcnt"},
    "avx2": {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"},
    "avx512": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
#: Features that only `native` admits.
_NATIVE_FEATURES = {"avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"}
#: How a level is said to PyTorch, oneDNN and MKL.
_LIBRARY_BOUNDS = {
    "portable": ("default", "SSE41", "SSE4_2"),
    "avx2": ("avx2", "AVX2", "AVX2"),
    "avx512": ("avx512", "AVX512_CORE", "AVX512"),
}
_LIBRARY_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")

#: How long PyTorch's OpenMP threads (GNU's) busy-wait for each other before they sleep; read when torch
#: is first imported. By default they spin so long that one other busy process makes a training step
#: fifty times slower; this costs nothing on a quiet machine (EXPERIMENTS.md).
_SPIN_COUNT = "2000"

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST_KEPT_BYTES = 1 << 30


# ------------------------------------------------------------------------------- instruction sets


@functools.cache
def features() -> frozenset[str]:
    """Return the names of the processor's features, as Linux spells them; none where they are unknown."""
    system = platform.system()
    if system == "Linux":
        return _features_of_linux(Path("/proc/cpuinfo"))
    return frozenset()


def _features_of_linux(cpuinfo: Path) -> frozenset[str]:
    try:
        text = cpuinfo.read_text()
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def is_x86() -> bool:
    """Whether this is a 64-bit x86 processor."""
    return platform.machine() in ("x86_64", "AMD64")


def levels() -> tuple[str, ...]:
    """Return the levels that this machine has."""
    if not is_x86():
        return ("portable", "native")
    found = []
    for level, needs in _NEEDS.items():
        if not needs <= features():
            break
        found.append(level)
    return (*found, "native")


def level() -> str:
    """Return the level that bounds this process, `native` where none is given.

    Raises:
        ConfigError: `SHARNN_CPU` names an unknown level, or one that the machine lacks.
    """
    wanted = os.environ.get(VARIABLE) or "native"
    if wanted not in LEVELS:
        raise ConfigError(f"{VARIABLE} is '{wanted}': give {', '.join(LEVELS)}")
    if wanted not in levels():
        raise ConfigError(
            f"{VARIABLE} is '{wanted}', which this processor lacks: it has {', '.join(levels())}"
        )
    return wanted


def allows(feature: str) -> bool:
    """Whether the processor has a feature, named as in /proc/cpuinfo, and the level admits it."""
    if feature not in features():
        return False
    bound = level()
    if bound == "native" or not is_x86():
        return True
    admitted = _NEEDS["portable"].union(
        *(_NEEDS[name] for name in _NEEDS if LEVELS.index(name) <= LEVELS.index(bound))
    )
    return feature in admitted


def bound_libraries() -> None:
    """Hold PyTorch, oneDNN and MKL to the level; call it before torch is imported.

    Raises:
        ConfigError: The level is unknown, or the machine lacks it.
    """
    bound = level()
    if bound in _LIBRARY_BOUNDS and is_x86():
        os.environ.update(zip(_LIBRARY_VARIABLES, _LIBRARY_BOUNDS[bound], strict=True))


# ------------------------------------------------------------------------------ before the work


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
