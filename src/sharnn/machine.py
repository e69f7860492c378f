"""What this machine is, told once: instruction sets, and what a process does best before its work.

`SHARNN_CPU=portable|avx2|avx512|native` bounds the instruction sets in use: those of our kernels,
PyTorch, oneDNN and MKL alike. So a machine with AVX-512 can test and measure what one with AVX2 does.
Nothing here imports torch: its libraries read their bounds when they are first used.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from sharnn.errors import ConfigError

#: The environment variable that bounds the instruction sets.
VARIABLE = "SHARNN_CPU"
#: What it may say, by rising demands. `native` is all that the processor has.
LEVELS = ("portable", "avx2", "avx512", "native")

#: What a level needs of an x86-64 processor, by the names of /proc/cpuinfo: x86-64-v2, -v3 and -v4.
_NEEDS = {
    "portable": {"sse4_2", "ssse3", "popcnt"},
    "avx2": {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"},
    "avx512": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
#: How a level is said to PyTorch, oneDNN and MKL.
_LIBRARY_BOUNDS = {
    "portable": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        # On processors that are not Intel's, MKL heeds this alone. There it never goes beyond AVX2.
        "MKL_CBWR": "COMPATIBLE",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}

#: How long PyTorch's OpenMP threads (GNU's) busy-wait for each other before they sleep; read when torch
#: is first imported. By default they spin so long that one other busy process makes a training step
#: fifty times slower; this costs nothing on a quiet machine (EXPERIMENTS.md). While a text is drawn,
#: threads wait longer: between two calls of a kernel lies what Python does for a token, and waking a
#: thread takes as long as a small model's step.
_SPIN_COUNT, _SPIN_COUNT_DRAWING = "2000", "10000"

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST_KEPT_BYTES = 1 << 30
_LARGE_PAGE, _MADV_HUGEPAGE = 1 << 21, 14

_CPUINFO = Path("/proc/cpuinfo")
_PF_SSSE3, _PF_SSE4_2, _PF_AVX2 = 36, 38, 40  # of winnt.h


# ------------------------------------------------------------------------------- instruction sets


@functools.cache
def features() -> frozenset[str]:
    """Return the names of the processor's features, as Linux spells them.

    Where an x86-64 processor does not tell, those of `portable` are assumed.
    """
    found: frozenset[str] = frozenset()
    if platform.system() == "Linux":
        found = _features_of_linux(_CPUINFO)
    elif platform.system() == "Darwin":
        found = _features_of_macos()
    elif platform.system() == "Windows":
        found = _features_of_windows(_is_present_on_windows)
    return found or frozenset(_NEEDS["portable"] if is_x86() else ())


def _features_of_linux(cpuinfo: Path) -> frozenset[str]:
    """Return what the file says of the first processor."""
    try:
        with cpuinfo.open() as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return frozenset(value.split())
    except OSError:
        pass
    return frozenset()


def _features_of_macos() -> frozenset[str]:
    """Return what an Intel processor has; of Apple's own nothing is asked."""
    names = [f"machdep.cpu.{name}" for name in ("features", "leaf7_features", "extfeatures")]
    try:
        told = subprocess.run(
            ["/usr/sbin/sysctl", "-n", *names], capture_output=True, text=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return _features_by_apple_names(told)


def _features_by_apple_names(told: str) -> frozenset[str]:
    names = told.lower().replace(".", "_").split()
    return frozenset("abm" if name == "lzcnt" else name for name in names)


def _features_of_windows(is_present: Callable[[int], bool]) -> frozenset[str]:
    """Return the levels' features by the numbers that winnt.h gives instruction sets.

    It tells of AVX-512's foundation alone, which is less than the level asks for.
    """
    found = set()
    if is_present(_PF_SSSE3) and is_present(_PF_SSE4_2):
        found |= _NEEDS["portable"]
        if is_present(_PF_AVX2):
            found |= _NEEDS["avx2"]
    return frozenset(found)


def _is_present_on_windows(number: int) -> bool:
    try:
        return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(number))  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return False


def is_x86() -> bool:
    """Whether this is a 64-bit x86 processor."""
    return platform.machine() in ("x86_64", "AMD64")


def needs(name: str) -> frozenset[str]:
    """Return the features that an x86-64 processor has at a level, those of lower ones among them."""
    return frozenset().union(*(_NEEDS[below] for below in LEVELS[: LEVELS.index(name) + 1]))


def levels() -> tuple[str, ...]:
    """Return the levels that this machine has, by rising demands."""
    if not is_x86():
        return ("portable", "native")
    have = (name for name in ("avx2", "avx512") if needs(name) <= features())
    return ("portable", *have, "native")


def level() -> str:
    """Return the level that bounds this process, `native` where none is given.

    Raises:
        ConfigError: `SHARNN_CPU` names an unknown level, or one that the machine lacks.
    """
    wanted = os.environ.get(VARIABLE) or "native"
    if wanted == "native":
        return wanted
    if wanted not in LEVELS:
        raise ConfigError(
            f"{VARIABLE} is '{wanted}', which is no level: this processor has {', '.join(levels())}"
        )
    if wanted not in levels():
        raise ConfigError(
            f"{VARIABLE} is '{wanted}', which this processor lacks: it has {', '.join(levels())}"
        )
    return wanted


def allowed() -> frozenset[str]:
    """Return the processor's features that the level admits, named as in /proc/cpuinfo."""
    bound = level()
    if bound == "native" or not is_x86():
        return features()
    return features() & needs(bound)


def allows(feature: str) -> bool:
    """Whether the processor has a feature, named as in /proc/cpuinfo, and the level admits it."""
    return feature in allowed()


def bound_libraries() -> None:
    """Hold PyTorch, oneDNN and MKL to the level; call it before they first compute.

    They read their bounds once, PyTorch with its first operation. Warns where that was before.

    Raises:
        ConfigError: The level is unknown, or the machine lacks it.
    """
    bound = level()
    if bound == "native":
        return
    names = _LIBRARY_BOUNDS[bound] if is_x86() else {"ATEN_CPU_CAPABILITY": "default"}
    os.environ.update(names)
    if "torch" in sys.modules:
        _warn_if_too_late(bound, names["ATEN_CPU_CAPABILITY"])


def _warn_if_too_late(bound: str, capability: str) -> None:
    found = sys.modules["torch"].backends.cpu.get_cpu_capability().lower()
    if found != capability:
        warnings.warn(
            f"{VARIABLE} is '{bound}', but PyTorch computed before sharnn was imported and keeps "
            f"to {found}: import sharnn first",
            RuntimeWarning,
            stacklevel=3,
        )


# ------------------------------------------------------------------------------ before the work


def wait_briefly(drawing: bool = False) -> None:
    """Let threads sleep soon where they wait for each other; call it before torch is imported.

    Args:
        drawing: Whether this process draws texts token by token.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT_DRAWING if drawing else _SPIN_COUNT)


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


def prefer_large_pages(address: int, num_bytes: int) -> None:
    """Ask the system for large pages under memory that is still to be written.

    Whoever reads all of a matrix spends time on finding its pages. Does nothing where there are none.
    """
    first = -(-address // _LARGE_PAGE) * _LARGE_PAGE
    last = (address + num_bytes) // _LARGE_PAGE * _LARGE_PAGE
    if platform.system() == "Linux" and first < last:
        size = ctypes.c_size_t(last - first)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), size, _MADV_HUGEPAGE)


# ------------------------------------------------------------------------------------- threads

#: Where Linux tells a container its share of the processors, and each process the group it is in.
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
#: Of versions 1 and 2 of cgroups.
_QUOTA_FILES = (("cpu.cfs_quota_us", "cpu.cfs_period_us"), ("cpu.max",))
#: More threads than any machine has cores.
_MANY = 1 << 16


def bound_threads() -> None:
    """Make the number of threads certain, unless torch is there already, which then has its threads.

    oneDNN packs a matrix for the threads that OpenMP promises, and multiplies wrongly where it then gives
    fewer: with `OMP_THREAD_LIMIT`, or with `OMP_DYNAMIC` on a busy machine. And in a container with a
    quota of processor time, more threads than that is enough for wait for each other.
    """
    if "torch" in sys.modules:
        return
    os.environ["OMP_DYNAMIC"] = "false"
    bound = thread_bound()
    if bound is not None:
        os.environ["OMP_NUM_THREADS"] = str(bound)


def thread_bound() -> int | None:
    """Return how many threads the environment leaves; None where PyTorch's own choice is right.

    What the user says by `OMP_NUM_THREADS` counts more than a container's quota, and `OMP_THREAD_LIMIT`
    counts more than both.
    """
    given, limit = _whole_number("OMP_NUM_THREADS"), _whole_number("OMP_THREAD_LIMIT")
    wanted = given or math.ceil(min(_processor_quota(), _MANY))
    bound = min(wanted, limit or wanted)
    if bound in (given, _MANY):
        return None
    return bound if given else min(bound, _num_cores())


def threads_vary() -> bool:
    """Whether OpenMP may give fewer threads than it promised, by how busy the machine is."""
    return os.environ.get("OMP_DYNAMIC", "").strip().lower() == "true"


def _whole_number(variable: str) -> int | None:
    """Return what an environment variable of OpenMP says; None where it says nothing of use."""
    text = os.environ.get(variable, "").split(",")[0].strip()  # of nested teams, the outermost
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _num_cores() -> int:
    """Return the cores that this process may run on, as PyTorch counts them: without hyper-threads."""
    import psutil  # here, so that a process without a bound does without it

    logical = (
        len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else _MANY
    )
    return min(logical, psutil.cpu_count(logical=False) or _MANY)


def _processor_quota() -> float:
    """Return how many processors' time this process and its groups have at most; infinity for all."""
    try:
        own = _OWN_CGROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return math.inf
    quotas = [math.inf]
    for line in own:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root, names = (
            (_CGROUPS / "cpu", _QUOTA_FILES[0]) if controllers else (_CGROUPS, _QUOTA_FILES[1])
        )
        # The group and those around it. A container is shown its own as the root, whatever its path.
        group = Path(path.lstrip("/"))
        quotas += (_quota(root / part, names) for part in (group, *group.parents))
    return min(quotas)


def _quota(folder: Path, names: tuple[str, ...]) -> float:
    """Return the time for each period that a group may use, from files that hold both in µs."""
    try:
        time, period = (int(word) for name in names for word in (folder / name).read_text().split())
    except (OSError, ValueError):  # no such group, or its time is "max"
        return math.inf
    return time / period if time > 0 and period > 0 else math.inf


def tune_process(drawing: bool = False) -> None:
    """Set up threads and memory of this process; call it before torch is imported.

    Args:
        drawing: Whether this process draws texts token by token.

    Raises:
        ConfigError: `SHARNN_CPU` names a level that does not exist or that this machine lacks.
    """
    wait_briefly(drawing)
    bound_threads()
    keep_freed_memory()
    level()
