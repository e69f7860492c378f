"""Both ways that an operation can take on a CPU."""

from __future__ import annotations

import shutil

import pytest
import torch

from sharnn.ops import compiled


@pytest.fixture(params=["kernels", "pytorch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the kernels, or what is there without a compiler."""
    if request.param == "pytorch":
        monkeypatch.setattr(compiled, "available", lambda x: False)
    elif not compiled.available(torch.zeros(1)):
        assert shutil.which("g++") is None, "there is a compiler, but the kernels do not build"
        pytest.skip("no C++ compiler here")
