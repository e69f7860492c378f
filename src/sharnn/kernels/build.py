"""Compilation of the kernels, on first use and for a wheel.

This module needs only the standard library, because wheels are built without PyTorch.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sharnn.kernels.table import KERNELS, Kernel, Variant

_HEADERS = Path(__file__).parent
#: Compiler flags of every kernel.
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
_LINK_FLAGS = ("-Wl,-s",) if platform.system() == "Linux" else ()
#: Time limit of compiling a kernel, which takes some seconds.
TIMEOUT_SECONDS = 120.0
#: Time limit of printing the compiler's version, which takes some milliseconds.
VERSION_SECONDS = 10.0


class BuildError(Exception):
    """A kernel could not be built; the message gives the reason."""


class CompilerHangsError(BuildError):
    """A compiler did not end in time."""


def find_compiler() -> str | None:
    """Return the path of `$CXX` or of a common C++ compiler; None without one or if `SHARNN_NATIVE=0`."""
    if os.environ.get("SHARNN_NATIVE") == "0":
        return None
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@functools.cache
def compiler_version(compiler: str) -> str:
    """Return the compiler's description of its version.

    Raises:
        BuildError: The compiler fails, or does not end in time.
    """
    return _run([compiler, "--version"], VERSION_SECONDS)


def file_name(kernel: Kernel, variant: Variant, openmp: bool, version: str = "") -> str:
    """Return the file name of a library; it contains a digest of everything that determines the build.

    Args:
        kernel: The kernel.
        variant: The instruction set.
        openmp: Whether it uses threads.
        version: Version of the compiler; empty for a library that comes with the package.
    """
    headers = sorted({*_HEADERS.glob("*.h"), *kernel.source.parent.glob("*.h")})
    texts = (file.read_text(encoding="utf-8") for file in (kernel.source, *headers))
    parts = (*texts, *_flags(kernel, variant, openmp), *_LINK_FLAGS, version)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return f"{kernel.source.stem}-{variant.name}-{digest}.so"


def compile_kernel(
    compiler: str, kernel: Kernel, variant: Variant, openmp: bool, library: Path
) -> None:
    """Build a shared library; it appears atomically, so several processes may build it at the same time.

    OpenMP is not linked: its functions come from the library that PyTorch brings, because two thread
    pools would compete for the same cores. The C++ library is linked dynamically, as PyTorch does it.
    Kernels need less of it, and of glibc, than PyTorch does, so they load wherever PyTorch loads. Linked
    statically, they would require the glibc of the machine that built them.

    Args:
        compiler: Path of the compiler.
        kernel: The kernel.
        variant: The instruction set.
        openmp: Whether it uses threads.
        library: The file to write.

    Raises:
        BuildError: The compiler fails or does not end, or the file cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            compiled, linked = Path(folder) / "kernels.o", Path(folder) / "kernels.so"
            include = f"-I{_HEADERS}"
            flags = _flags(kernel, variant, openmp)
            _run([compiler, include, *flags, "-c", str(kernel.source), "-o", str(compiled)])
            _run([compiler, "-shared", str(compiled), *_LINK_FLAGS, "-o", str(linked)])
            linked.chmod(0o755)
            os.replace(linked, library)
    except OSError as failure:
        raise BuildError(f"{failure.strerror}: {failure.filename}") from failure


def prebuild(folder: Path, variants: Sequence[Variant]) -> None:
    """Build all kernels into a folder and remove other files from it; reports failed builds on stderr.

    Without a compiler nothing is built, and the folder is not created.

    Args:
        folder: Destination; libraries that exist already are not built again.
        variants: The instruction sets.
    """
    compiler = find_compiler()
    if compiler is None:
        print("sharnn: no C++ compiler found: the wheel contains no kernels", file=sys.stderr)
        return
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        file_name(kernel, variant, openmp=True): (kernel, variant)
        for kernel in KERNELS
        for variant in variants
    }
    for file in folder.iterdir():  # left by an earlier build
        if file.name not in wanted:
            file.unlink()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {
            pool.submit(compile_kernel, compiler, *what, True, folder / name): what
            for name, what in wanted.items()
            if not (folder / name).exists()
        }
        for job, (kernel, variant) in jobs.items():
            try:
                job.result()
            except BuildError as failure:
                told = (
                    f"sharnn: the wheel has no {kernel.source.name} for {variant.name}: {failure}"
                )
                print(told, file=sys.stderr)
                if isinstance(failure, CompilerHangsError):
                    pool.shutdown(cancel_futures=True)
                    return


def _flags(kernel: Kernel, variant: Variant, openmp: bool) -> tuple[str, ...]:
    definitions = (f"-D{definition}" for definition in kernel.definitions)
    return (*FLAGS, *variant.flags, *definitions, *(("-fopenmp",) if openmp else ()))


def _run(command: Sequence[str], seconds: float | None = None) -> str:
    """Return what a command prints; a timeout or interruption kills it with all processes it started."""
    name = Path(command[0]).name
    grouped = os.name == "posix"
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=grouped,
        )  # fmt: skip
    except OSError as failure:
        raise BuildError(f"{name} does not start ({failure.strerror})") from failure
    try:
        seconds = TIMEOUT_SECONDS if seconds is None else seconds
        printed, complaints = process.communicate(timeout=seconds)
    except BaseException as interruption:
        if grouped:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        if isinstance(interruption, subprocess.TimeoutExpired):
            raise CompilerHangsError(f"{name} did not end in {seconds:g} seconds") from interruption
        raise
    if process.returncode:
        lines = [line for line in complaints.splitlines() if "error" in line] or [""]
        raise BuildError(f"{name} failed with {process.returncode} {lines[0].strip()}".strip())
    return printed
