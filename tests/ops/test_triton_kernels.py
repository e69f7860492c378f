"""The kernels in Triton follow the definition; without a GPU Triton's interpreter runs them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

_PROGRAM = """
import sys
import torch
from sharnn.ops import pointwise, triton_kernels

device, dtype, limit = sys.argv[1], getattr(torch, sys.argv[2]), float(sys.argv[3])
torch.manual_seed(0)
z, grad = torch.randn(37, 5 * 24, dtype=torch.float64), torch.randn(37, 24, dtype=torch.float64)
ours = z.to(device, dtype), grad.to(device, dtype)
assert triton_kernels.available(ours[0]) and not triton_kernels.available(z)
pairs = [
    (pointwise.boom_sum(ours[0], 24, 0.0, 0), pointwise.boom_sum(z, 24, 0.0, 0)),
    (pointwise.boom_sum_backward(*ours, 0.0, 0), pointwise.boom_sum_backward(z, grad, 0.0, 0)),
]
for mine, exact in pairs:
    assert mine.dtype == dtype
    assert (mine.cpu().double() - exact).norm() < limit * exact.norm()

z, ones = torch.full((500, 4 * 24), 3.0, device=device), torch.ones(500, 24, device=device)
kept = pointwise.boom_sum_backward(z, ones, 0.3, 4_000_000_000) != 0
assert abs(kept.float().mean() - 0.7) < 0.01
each = pointwise.boom_sum(z, 24, 0.0, 0)[0, 0] / 4 / 0.7
mixed = pointwise.boom_sum(z, 24, 0.3, 4_000_000_000)  # of the same mask
torch.testing.assert_close(mixed, kept.view(500, 4, 24).sum(1) * each)
"""


_RECALL = """
import sys
import torch
from sharnn.ops import FAST, REFERENCE, triton_kernels

orders, device = [1, 2, 5], sys.argv[1]
text = torch.randint(9, (3, 5 + 40), generator=torch.Generator().manual_seed(0))
slots = torch.zeros(3, len(orders), 256, dtype=torch.int64)
assert triton_kernels.available(text.to(device))
for part in (text, text.flip(1)):  # the second segment finds what the first has left
    expected = REFERENCE.recall(part, slots, orders)
    ours = FAST.recall(part.to(device), slots.to(device), orders)
    assert all(torch.equal(mine.cpu(), exact) for mine, exact in zip(ours, expected))
    slots = expected[1]
"""


@pytest.mark.parametrize(("dtype", "limit"), [("float32", "1e-6"), ("bfloat16", "1e-2")])
def test_boom_follows_its_definition(dtype: str, limit: str) -> None:
    run(_PROGRAM, dtype, limit)


def test_recall_follows_its_definition() -> None:
    run(_RECALL)


def run(program: str, *arguments: str) -> None:
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    environment = {**os.environ, **({"TRITON_INTERPRET": "1"} if device == "cpu" else {})}
    command = [sys.executable, "-c", program, device, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
