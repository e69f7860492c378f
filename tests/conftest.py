"""Shared by all tests: reproducible hypothesis, and a cache that is not the user's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Tiny tensors gain nothing from threads, and two test processes that each want all cores stall.
os.environ["OMP_NUM_THREADS"] = "1"

from sharnn.machine import bound_libraries

bound_libraries()  # before torch is imported

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

torch.set_num_threads(1)
settings.register_profile("sharnn", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("sharnn")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("SHARNN_CACHE", str(tmp_path_factory.mktemp("cache")))
