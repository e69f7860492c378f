"""Selection and loading of the kernels' builds.

A prebuilt library from the package is used if it was built from exactly these sources. Otherwise, as in
a checkout, the kernel is compiled on first use, which takes some seconds, and kept in the cache folder
under a digest of everything that determines the build. Without a compiler, callers use PyTorch's own
operations instead. `SHARNN_NATIVE=0` selects these everywhere.
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
#: The name with which `at` switches all kernels off.
NONE = "none"

_chosen: list[Variant | None] = []  # chosen by nested blocks of `at`, the innermost last
_hanging: set[str] = set()  # compilers that did not end in time


def load(source: Path, *definitions: str) -> ctypes.CDLL | None:
    """Return the library of a kernel for the instruction set in use; None if there is none.

    Callers must not keep the result, because the instruction set may change (`at`). A call takes a
    microsecond.

    Args:
        source: The C++ file; its exports are `extern "C"`.
        definitions: Macros of the build, as `NAME=VALUE`.
    """
    in_use = variant()
    return None if in_use is None else _load(Kernel(source, definitions), in_use)


def variant() -> Variant | None:
    """Return the build in use: by default the most demanding one that processor and level support."""
    return _chosen[-1] if _chosen else _default_variant()


@functools.cache
def variants() -> tuple[str, ...]:
    """Return the names of the builds that run on this processor at its level, most demanding last."""
    return tuple(v.name for v in built_variants() if v.features <= machine.allowed())


@contextlib.contextmanager
def at(name: str) -> Iterator[None]:
    """Use the kernels of another build while the block runs; PyTorch and its libraries are not affected.

    A decoder that is created in the block can step only in the block.

    Args:
        name: One of `variants()`, or "none" for PyTorch's own operations.

    Raises:
        ConfigError: This machine has no such build.
    """
    if name not in (*variants(), NONE):
        raise ConfigError(
            f"there are no kernels '{name}' here: give one of {', '.join((*variants(), NONE))}"
        )
    _chosen.append(next((v for v in built_variants() if v.name == name), None))
    try:
        yield
    finally:
        _chosen.pop()


def origin() -> str:
    """Describe which kernels are in use and where they come from, without compiling any."""
    in_use = variant()
    if in_use is None:
        if not variants():
            return "none: this processor is too old for the kernels"
        return f"none: {'switched off' if _chosen else 'SHARNN_NATIVE is 0'}"
    places = dict.fromkeys(_place(kernel, in_use) for kernel in KERNELS)
    return f"{in_use.name}, {' and '.join(places)}"


def _place(kernel: Kernel, variant: Variant) -> str:
    if _prebuilt(kernel, variant) is not None:
        return "prebuilt"
    compiler, folder = find_compiler(), cache.folder()
    if compiler is None:
        return "missing: there are no prebuilt kernels and no C++ compiler in PATH"
    if folder is None:
        return "missing: there is no private folder to compile them to"
    if compiler in _hanging:
        return f"missing: {compiler} does not end"
    try:
        version = compiler_version(compiler)
    except BuildError as failure:
        if isinstance(failure, CompilerHangsError):
            _hanging.add(compiler)
        return f"missing: {failure}"
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
    told = f"cannot compile {kernel.source.name}: {failure}; continuing without it, more slowly"
    tell_once("compiler", told)
    return None


def _announce(variant: Variant) -> None:
    if sys.stderr.isatty():
        tell_once("compiling", f"compiling kernels for {variant.name} (only once, some seconds)")
