"""Which build of a kernel a process calls, and where it comes from.

A build that comes with the package is taken where it was made from exactly these sources. Where there
is none, as in a checkout, the kernel is compiled on first use, which takes some seconds, and kept in the
cache folder under a digest of all that went into it. Where there is no compiler either, callers
take PyTorch's own operations instead. `SHARNN_NATIVE=0` says to do that everywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from sharnn import machine
from sharnn.errors import ConfigError
from sharnn.kernels import cache
from sharnn.kernels.build import (
    BuildError,
    CompilerHangsError,
    compile_kernel,
    compiler_version,
    file_name,
    find_compiler,
)
from sharnn.kernels.table import KERNELS, Kernel, Variant, built_variants
from sharnn.kernels.tell import tell_once

#: Libraries that come with the package.
PREBUILT = Path(__file__).with_name("prebuilt")
#: The name by which `at` takes no kernels at all.
NONE = "none"

_chosen: list[Variant | None] = []  # by the blocks of `at`, the innermost last
_hanging: set[str] = set()  # compilers


def load(source: Path, *definitions: str) -> ctypes.CDLL | None:
    """Return the library of a kernel for the instruction set in use; None where there is none.

    A caller asks anew each time, for the instruction set may change (`at`): that takes a microsecond.

    Args:
        source: The C++ file; what it exports is `extern "C"`.
        definitions: Macros that it is built with, as `NAME=VALUE`.
    """
    in_use = variant()
    return None if in_use is None else _load(Kernel(source, definitions), in_use)


def variant() -> Variant | None:
    """Return the build in use: by default the one that demands most of what processor and level have."""
    return _chosen[-1] if _chosen else _default_variant()


@functools.cache
def variants() -> tuple[str, ...]:
    """Return the names of the builds that run on this processor at its level, by rising demands."""
    return tuple(v.name for v in built_variants() if v.features <= machine.allowed())


@contextlib.contextmanager
def at(name: str) -> Iterator[None]:
    """Call the kernels of another build while the block runs, all others unchanged.

    A decoder made in the block steps in the block only.

    Args:
        name: One of `variants()`, or "none" for PyTorch's own operations.

    Raises:
        ConfigError: There is no such build here.
    """
    if name not in (*variants(), NONE):
        raise ConfigError(f"there are no kernels '{name}' here: {', '.join((*variants(), NONE))}")
    _chosen.append(next((v for v in built_variants() if v.name == name), None))
    try:
        yield
    finally:
        _chosen.pop()


def origin() -> str:
    """Return which kernels are in use and where they come from, without compiling any."""
    in_use = variant()
    if in_use is None:
        if not variants():
            return "none: this processor is too old for them"
        return f"none: {'switched off' if _chosen else 'SHARNN_NATIVE is 0'}"
    places = dict.fromkeys(_place(kernel, in_use) for kernel in KERNELS)
    return f"{in_use.name}, {' and '.join(places)}"


def _place(kernel: Kernel, variant: Variant) -> str:
    if _prebuilt(kernel, variant) is not None:
        return "prebuilt"
    compiler, folder = find_compiler(), cache.folder()
    if compiler is None:
        return "not there: neither prebuilt nor a C++ compiler in PATH"
    if folder is None:
        return "not there: no private folder to compile them to"
    if compiler in _hanging:
        return f"not there: {compiler} does not end"
    try:
        version = compiler_version(compiler)
    except BuildError as failure:
        if isinstance(failure, CompilerHangsError):
            _hanging.add(compiler)
        return f"not there: {failure}"
    names = (file_name(kernel, variant, openmp, version) for openmp in (True, False))
    if any(cache.may_load(folder / name) for name in names):
        return f"compiled, in {folder}"
    return f"compiled on first use by {compiler}"


@functools.cache
def _default_variant() -> Variant | None:
    if os.environ.get("SHARNN_NATIVE") == "0" or not variants():
        return None
    return next(v for v in built_variants() if v.name == variants()[-1])


@functools.cache
def _load(kernel: Kernel, variant: Variant) -> ctypes.CDLL | None:
    return _prebuilt(kernel, variant) or _compiled(kernel, variant)


@functools.cache
def _prebuilt(kernel: Kernel, variant: Variant) -> ctypes.CDLL | None:
    library = PREBUILT / file_name(kernel, variant, openmp=True)
    if not library.exists():
        return None
    try:
        return ctypes.CDLL(str(library))
    except OSError as failure:
        tell_once("prebuilt", f"a prebuilt kernel does not load: {failure}")
        return None


def _compiled(kernel: Kernel, variant: Variant) -> ctypes.CDLL | None:
    compiler = find_compiler()
    if compiler is None or compiler in _hanging:
        return None
    folder = cache.folder()
    if folder is None:
        return None
    failure: Exception | None = None
    for openmp in (True, False):
        try:
            library = folder / file_name(kernel, variant, openmp, compiler_version(compiler))
            if not cache.may_load(library):
                _announce(variant)
                compile_kernel(compiler, kernel, variant, openmp, library)
            return ctypes.CDLL(str(library))
        except CompilerHangsError as hanging:
            failure = hanging
            _hanging.add(compiler)
            break
        except (BuildError, OSError) as wrong:
            failure = wrong
    told = f"cannot compile {kernel.source.name}: {failure}; going on without, more slowly"
    tell_once("compiler", told)
    return None


def _announce(variant: Variant) -> None:
    if sys.stderr.isatty():
        tell_once("compiling", f"compiling kernels for {variant.name} (once, some seconds)")
