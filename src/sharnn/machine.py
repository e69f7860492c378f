"""The machine: its description, instruction sets, and the setup of memory and threads of a process.

`SHARNN_CPU=portable|avx2|avx512|native` limits the instruction sets used by our kernels, PyTorch, oneDNN
and MKL. So a machine with AVX-512 can test and measure what a machine with AVX2 does. This module does
not import torch, because torch's libraries read their limits when they are first used.
"""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING

from sharnn.errors import ConfigError

if TYPE_CHECKING:
    import torch

#: The environment variable that limits the instruction sets.
VARIABLE = "SHARNN_CPU"
#: Its values, from the fewest required features to the most. `native` is everything the processor has.
LEVELS = ("portable", "avx2", "avx512", "native")

#: Features that each level adds on x86-64, with the names of /proc/cpuinfo: x86-64-v2, -v3 and -v4.
_NEEDS = {
    "portable": {"sse4_2", "ssse3", "popcnt"},
    "avx2": {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"},
    "avx512": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
#: The environment variables of PyTorch, oneDNN and MKL for each level.
_LIBRARY_BOUNDS = {
    "portable": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        # On processors by others than Intel, MKL obeys only this variable. There it never exceeds AVX2.
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
#: is first imported. With the default, one other busy process makes a training step fifty times slower;
#: this value costs nothing on an idle machine (EXPERIMENTS.md). Sampling uses a longer wait: Python does
#: its work for a token between two kernel calls, and waking a thread takes as long as a step of a small
#: model.
_SPIN_COUNT, _SPIN_COUNT_DRAWING = "2000", "10000"

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST_KEPT_BYTES = 1 << 30
_LARGE_PAGE, _MADV_HUGEPAGE = 1 << 21, 14

_CPUINFO = Path("/proc/cpuinfo")
_PF_SSSE3, _PF_SSE4_2, _PF_AVX2 = 36, 38, 40  # of winnt.h


# ------------------------------------------------------------------------------- instruction sets


@functools.cache
def features() -> frozenset[str]:
    """Return the names of the processor's features, as in Linux's /proc/cpuinfo.

    If the features of an x86-64 processor cannot be found, those of `portable` are assumed.
    """
    found: frozenset[str] = frozenset()
    if platform.system() == "Linux":
        found = frozenset(_read_cpuinfo("flags", "Features").split())
    elif platform.system() == "Darwin":
        found = _features_of_macos()
    elif platform.system() == "Windows":
        found = _features_of_windows(_is_present_on_windows)
    return found or frozenset(_NEEDS["portable"] if is_x86() else ())


def _read_cpuinfo(*names: str) -> str:
    """Return the first field of one of these names in /proc/cpuinfo, or nothing if there is none."""
    with contextlib.suppress(OSError), _CPUINFO.open() as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() in names:
                return value.strip()
    return ""


def _features_of_macos() -> frozenset[str]:
    """Return the features of an Intel processor; for Apple's own processors nothing is queried."""
    names = [f"machdep.cpu.{name}" for name in ("features", "leaf7_features", "extfeatures")]
    try:
        printed = subprocess.run(
            ["/usr/sbin/sysctl", "-n", *names], capture_output=True, text=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return _features_by_apple_names(printed)


def _features_by_apple_names(printed: str) -> frozenset[str]:
    names = printed.lower().replace(".", "_").split()
    return frozenset("abm" if name == "lzcnt" else name for name in names)


def _features_of_windows(is_present: Callable[[int], bool]) -> frozenset[str]:
    """Return the features of the levels that Windows reports, queried by their numbers in winnt.h.

    For AVX-512 winnt.h has only the foundation, which is less than the level requires.
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
    """Return the x86-64 features that a level requires, including those of lower levels."""
    return frozenset().union(*(_NEEDS[below] for below in LEVELS[: LEVELS.index(name) + 1]))


def levels() -> tuple[str, ...]:
    """Return the levels that this machine supports, from the fewest required features to the most."""
    if not is_x86():
        return ("portable", "native")
    have = (name for name in ("avx2", "avx512") if needs(name) <= features())
    return ("portable", *have, "native")


def level() -> str:
    """Return the level that limits this process, `native` if none is set.

    Raises:
        ConfigError: `SHARNN_CPU` names an unknown level, or one that this machine does not support.
    """
    wanted = os.environ.get(VARIABLE) or "native"
    if wanted == "native":
        return wanted
    if wanted not in LEVELS:
        raise ConfigError(
            f"{VARIABLE} is '{wanted}', which is not a level: this processor has "
            f"{', '.join(levels())}, set one of them"
        )
    if wanted not in levels():
        raise ConfigError(
            f"{VARIABLE} is '{wanted}', which this processor lacks: it has {', '.join(levels())}, set "
            "one of them"
        )
    return wanted


def allowed() -> frozenset[str]:
    """Return the processor's features that the level allows, named as in /proc/cpuinfo."""
    bound = level()
    if bound == "native" or not is_x86():
        return features()
    return features() & needs(bound)


def allows(feature: str) -> bool:
    """Return whether the processor has a feature, named as in /proc/cpuinfo, and the level allows it."""
    return feature in allowed()


def bound_libraries() -> None:
    """Limit PyTorch, oneDNN and MKL to the level; call this before they first compute.

    Each reads its limit once, PyTorch at its first operation. Warns if that has already happened.

    Raises:
        ConfigError: The level is unknown, or the machine does not support it.
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
            f"{VARIABLE} is '{bound}', but PyTorch had computed before sharnn was imported and uses "
            f"{found}: import sharnn first",
            RuntimeWarning,
            stacklevel=3,
        )


# --------------------------------------------------------------------------------- description

#: Names of the best instruction set of an x86-64 processor, by a feature that it has.
_LABELS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX-512", "avx2": "AVX2"}


def describe(device: torch.device) -> str:
    """Return the name of the device that computes.

    For a CPU also the cores that PyTorch uses, the best instruction set of the processor (of x86-64
    only), and the level that limits this process.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _read_cpuinfo("model name") or platform.processor() or platform.machine()
    cores = torch.get_num_threads()
    best = [label for feature, label in _LABELS.items() if feature in features()][:1]
    limit = [] if level() == "native" else [f"level {level()}"]
    return ", ".join([name, f"{cores} core{'s' * (cores > 1)}", *best, *limit])


def versions() -> dict[str, str]:
    """Return the versions of sharnn (`version`), Python and PyTorch that results record."""
    import torch

    import sharnn

    python = platform.python_version()
    return {"version": sharnn.__version__, "python": python, "torch": torch.__version__}


# ------------------------------------------------------------------------------ before the work


def wait_briefly(drawing: bool = False) -> None:
    """Let waiting threads sleep soon; call this before torch is imported.

    Args:
        drawing: Whether this process samples texts token by token.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT_DRAWING if drawing else _SPIN_COUNT)


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensors.

    By default glibc returns every freed block over 32 MiB to the system, and each new block costs a page
    fault for every 4 KiB: up to 7% of a training step (EXPERIMENTS.md). PyTorch has no allocator of its
    own on a CPU. Does nothing with other C libraries, or if the user has set glibc's thresholds.
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
    """Request large pages from the system for memory that has not been written yet.

    Reading a whole matrix then spends less time on page look-ups. Does nothing on systems without them.
    """
    first = -(-address // _LARGE_PAGE) * _LARGE_PAGE
    last = (address + num_bytes) // _LARGE_PAGE * _LARGE_PAGE
    if platform.system() == "Linux" and first < last:
        size = ctypes.c_size_t(last - first)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), size, _MADV_HUGEPAGE)


# ------------------------------------------------------------------------------------- threads

#: Linux's files with the processor quotas of control groups, and with the groups of this process.
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
#: Names of the quota files of cgroups version 1 and of version 2.
_QUOTA_FILES = (("cpu.cfs_quota_us", "cpu.cfs_period_us"), ("cpu.max",))
#: More threads than any machine has cores.
_MANY = 1 << 16


def bound_threads() -> None:
    """Fix the number of threads; does nothing if torch is already imported, which then has its threads.

    oneDNN packs a matrix for the number of threads that OpenMP announces, and computes wrong products if
    OpenMP then gives fewer: with `OMP_THREAD_LIMIT`, or with `OMP_DYNAMIC` on a busy machine. In a
    container with a quota of processor time, more threads than the quota would wait for each other.
    """
    if "torch" in sys.modules:
        return
    os.environ["OMP_DYNAMIC"] = "false"
    bound = thread_bound()
    if bound is not None:
        os.environ["OMP_NUM_THREADS"] = str(bound)


def use_threads(number: int) -> None:
    """Set the number of threads of this process, and of the processes that it starts."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(number)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(number)


def thread_bound() -> int | None:
    """Return the number of threads that the environment allows; None if PyTorch's own choice is right.

    The user's `OMP_NUM_THREADS` takes precedence over a container's quota, and `OMP_THREAD_LIMIT` over
    both.
    """
    given, limit = _whole_number("OMP_NUM_THREADS"), _whole_number("OMP_THREAD_LIMIT")
    wanted = given or math.ceil(min(_processor_quota(), _MANY))
    bound = min(wanted, limit or wanted)
    if bound in (given, _MANY):
        return None
    return bound if given else min(bound, _num_cores())


def threads_vary() -> bool:
    """Return whether OpenMP may give fewer threads than it announced when the machine is busy."""
    return os.environ.get("OMP_DYNAMIC", "").strip().lower() == "true"


def _whole_number(variable: str) -> int | None:
    """Return the value of one of OpenMP's environment variables; None if it is not a positive number."""
    text = os.environ.get(variable, "").split(",")[0].strip()  # of nested teams, the outermost
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _num_cores() -> int:
    """Return the cores that this process may run on, as PyTorch counts them: without hyper-threads."""
    import psutil  # here, so that only a process with a limit imports it

    logical = (
        len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else _MANY
    )
    return min(logical, psutil.cpu_count(logical=False) or _MANY)


def _processor_quota() -> float:
    """Return the quota of this process and its groups, in processors; infinity if there is none."""
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
        # The group and its ancestors. A container sees its own group as the root, whatever its path.
        group = Path(path.lstrip("/"))
        quotas += (_quota(root / part, names) for part in (group, *group.parents))
    return min(quotas)


def _quota(folder: Path, names: tuple[str, ...]) -> float:
    """Return a group's quota, time / period, from files with both in µs."""
    try:
        time, period = (int(word) for name in names for word in (folder / name).read_text().split())
    except (OSError, ValueError):  # there is no such group, or its time is "max"
        return math.inf
    return time / period if time > 0 and period > 0 else math.inf


def tune_process(drawing: bool = False) -> None:
    """Set up the threads and memory of this process; call this before torch is imported.

    Args:
        drawing: Whether this process samples texts token by token.

    Raises:
        ConfigError: `SHARNN_CPU` names an unknown level, or one that this machine does not support.
    """
    wait_briefly(drawing)
    bound_threads()
    keep_freed_memory()
    level()
