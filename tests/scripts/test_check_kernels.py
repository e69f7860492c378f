"""The check without PyTorch: of the lowest and highest build here, and of ARM's where it can be run."""

from __future__ import annotations

import shutil

import pytest

import check_kernels
from sharnn.kernels import variants
from sharnn.kernels.table import ARM_VARIANTS, X86_VARIANTS


def test_builds_compute_the_same_integers() -> None:
    here = [variant for variant in X86_VARIANTS if variant.name in variants()]
    builds = [("g++", variant, []) for variant in {here[0], here[-1]}] if here else []
    builds.append((check_kernels.ARM_COMPILER, ARM_VARIANTS[0], check_kernels.EMULATOR))
    digests = {
        check_kernels.check(compiler, variant, "-O1", emulator)
        for compiler, variant, emulator in builds
        if all(map(shutil.which, (compiler, *emulator[:1])))
    }
    if not digests:
        pytest.skip("no C++ compiler here")
    assert len(digests) == 1
