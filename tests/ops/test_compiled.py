"""Kernels are called where there are any, and compute the same in any number of threads."""

from __future__ import annotations

import pytest
import torch

from ops.definitions import randn
from sharnn import kernels
from sharnn.kernels import build
from sharnn.ops import FAST, compiled

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="needs a C++ compiler")


def test_each_dtype_has_its_kernels(kernel_variant: str) -> None:
    some = kernel_variant != kernels.NONE
    for dtype, pointwise, recurrence in (
        (torch.float32, some, some),
        (torch.bfloat16, some, some),
        (torch.float64, some, False),
        (torch.float16, False, False),
    ):
        x = torch.zeros(1, dtype=dtype)
        assert compiled.available(x) == pointwise
        assert compiled.recurrence_available(x) == recurrence
        assert not compiled.available(x.to("meta"))


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, state, weight, bias = (
        x.float() for x in (randn(3, 5, 24), randn(3, 24), randn(96, 24), randn(96))
    )
    gate = x[0, 0]

    def results(num_threads: int) -> list[torch.Tensor]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
        leaf = x.clone().requires_grad_()
        torch.manual_seed(1)
        boom = FAST.boom(leaf, weight, bias, 0.2)
        y, hidden, cell = FAST.lstm(leaf, state, state, [weight, weight, bias, bias])
        mixed = FAST.attention(leaf, x, leaf, gate, gate, 4, None, 0.2)
        total = boom.sum() + y.square().sum() + hidden.sum() + cell.sum() + mixed.square().sum()
        return [boom, y, cell, mixed, *torch.autograd.grad(total, leaf)]

    expected = results(1)
    for num_threads in (2, 3, 8):
        assert all(map(torch.equal, results(num_threads), expected))
