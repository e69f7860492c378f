"""Shared by all tests: reproducible hypothesis, and a cache that is not the user's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Tiny tensors gain nothing from threads, and two test processes that each want all cores stall.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings

from sharnn import kernels

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("tests", "benchmarks", "scripts")]

torch.set_num_threads(1)
settings.register_profile("sharnn", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("sharnn")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
    """Give the tests a cache of their own, where only compiled kernels outlive them."""
    cache = tmp_path_factory.mktemp("cache")
    if kept := getattr(request.config, "cache", None):
        native = kept.mkdir("native")
        native.chmod(0o700)
        (cache / "native").symlink_to(native)
    pytest.MonkeyPatch().setenv("SHARNN_CACHE", str(cache))


@pytest.fixture(params=[*kernels.variants(), kernels.NONE])
def kernel_variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test with the kernels for each instruction set that this machine has, and with none."""
    with kernels.at(request.param):
        yield request.param
