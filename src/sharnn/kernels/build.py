"""Small C++ kernels, compiled for an instruction set on first use; everything works without them.

A kernel file lies beside the Python that calls it. Where there is a C++ compiler it is built once
(a few seconds), kept in the cache folder under a digest of all that went into it, and called through
ctypes. Where there is none, the callers take PyTorch's own operations instead.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from sharnn import machine
from sharnn.files import cache_folder

#: What the kernels share.
_HEADERS = sorted(Path(__file__).parent.glob("*.h"))
_FLAGS = (
    f"-I{Path(__file__).parent}",
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
)
_TIMEOUT_SECONDS = 120


@functools.cache
def load(source: Path, *definitions: str) -> ctypes.CDLL | None:
    """Return the library built from a C++ file; None where that can't be.

    `SHARNN_NATIVE=0` in the environment says not to build any.

    Args:
        source: The file; what it exports is `extern "C"`.
        definitions: Macros that it is built with, as `NAME=VALUE`.
    """
    compiler = _compiler()
    if compiler is None or os.environ.get("SHARNN_NATIVE") == "0":
        return None
    flags = (*_FLAGS, *variant().flags, *(f"-D{definition}" for definition in definitions))
    for openmp in (("-fopenmp",), ()):
        library = _build(compiler, source, (*flags, *openmp))
        if library is not None:
            return library
    return None


def _compiler() -> str | None:
    """Return the path of `$CXX` or of a common C++ compiler."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


class Variant(NamedTuple):
    """A build for an instruction set.

    Attributes:
        name: Told in file names and results.
        level: The lowest level that admits it.
        features: What it needs beyond that, by the names of /proc/cpuinfo.
        flags: What the compiler is told.
    """

    name: str
    level: str
    features: frozenset[str]
    flags: tuple[str, ...]


_WIDE = ("-march=x86-64-v4", "-mprefer-vector-width=512")
#: By rising demands.
X86_VARIANTS = (
    Variant("portable", "portable", frozenset(), ("-march=x86-64-v2",)),
    Variant("avx2", "avx2", frozenset(), ("-march=x86-64-v3",)),
    Variant("avx512", "avx512", frozenset(), _WIDE),
    Variant("avx512-vnni", "native", frozenset({"avx512_vnni"}), (*_WIDE, "-mavx512vnni")),
    Variant(
        "avx512-bf16",
        "native",
        frozenset({"avx512_vnni", "avx512_bf16"}),
        (*_WIDE, "-mavx512vnni", "-mavx512bf16"),
    ),
)
ARM_VARIANTS = (Variant("neon", "portable", frozenset(), ("-march=armv8-a",)),)


def variant() -> Variant:
    """Return the build with the highest demands that processor and level meet."""
    if not machine.is_x86():
        return ARM_VARIANTS[-1]
    admitted = machine.levels()[: machine.levels().index(machine.level()) + 1]
    return [v for v in X86_VARIANTS if v.level in admitted and v.features <= machine.features()][-1]


def _build(compiler: str, source: Path, flags: tuple[str, ...]) -> ctypes.CDLL | None:
    """Compile, unless the cache has it, and load; None where either fails."""
    texts = (file.read_text(encoding="utf-8") for file in (source, *_HEADERS))
    parts = (*texts, _version(compiler), *flags)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    library = cache_folder() / "native" / f"{source.stem}-{digest}.so"
    try:
        if not library.exists():
            _compile(compiler, source, flags, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(compiler: str, source: Path, flags: tuple[str, ...], library: Path) -> None:
    """Build a shared library that appears whole, so that processes may build it side by side.

    OpenMP's own library is not linked: its functions are found in the one that PyTorch brings, for
    two pools of threads would wait for the same cores.
    """
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        compiled, linked = Path(folder) / "kernels.o", Path(folder) / "kernels.so"
        for command in (
            [compiler, *flags, "-c", str(source), "-o", str(compiled)],
            [compiler, "-shared", str(compiled), "-o", str(linked)],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
        os.replace(linked, library)


@functools.cache
def _version(compiler: str) -> str:
    result = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return result.stdout
