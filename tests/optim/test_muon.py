"""Muon's steps are orthogonal, map by map, and of AdamW's size."""

from __future__ import annotations

import pytest
import torch

from sharnn.optim import Muon
from sharnn.optim.muon import orthogonalised


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 16, 64), (2, 64, 16)])
def test_most_singular_values_come_close_to_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    made = orthogonalised(0.01 * torch.randn(shape))
    values = torch.linalg.svdvals(made)
    assert made.shape == shape
    assert values.max() < 1.25
    assert values.median() == pytest.approx(1, abs=0.1)


def test_directions_are_kept() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(2, 12, 40)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.allclose(orthogonalised(matrix), u @ v, atol=0.1)


def test_the_size_of_a_gradient_is_of_no_matter() -> None:
    torch.manual_seed(2)
    matrix = torch.randn(1, 8, 8)
    assert torch.allclose(orthogonalised(matrix), orthogonalised(1e-6 * matrix), atol=0.05)


def test_gates_are_made_orthogonal_one_by_one() -> None:
    """A gate with a small gradient moves as far as its neighbours, which one map would not let it."""
    torch.manual_seed(3)
    weight = torch.nn.Parameter(torch.zeros(4 * 16, 16))
    weight.grad = torch.randn(4 * 16, 16)
    weight.grad[:16] *= 1e-3
    Muon([weight], lr=0.5).step()
    for gate in weight.detach().chunk(4):
        values = torch.linalg.svdvals(gate)
        assert values.median() == pytest.approx(0.5 * 0.2 * 16**0.5, rel=0.1)


def test_decay_is_decoupled_and_no_gradient_means_no_step() -> None:
    weight, idle = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    weight.grad = torch.zeros(4, 4)
    Muon([weight, idle], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(weight, torch.full((4, 4), 0.95))
    assert torch.equal(idle, torch.ones(4, 4))


@pytest.mark.parametrize("fast_bf16", [False, True])
def test_iterations_are_in_bf16_where_that_is_fast(
    fast_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharnn.optim.muon.has_fast_bf16", lambda _: fast_bf16)
    torch.manual_seed(4)
    made = orthogonalised(torch.randn(2, 16, 16))
    assert made.dtype == torch.float32
    assert torch.equal(made, made.bfloat16().float()) == fast_bf16


def test_only_singular_values_far_below_the_norm_stay_small() -> None:
    shares = torch.tensor([0.002, 0.01, 0.1, 1e-4])
    values = torch.cat([shares, (1 - shares.square().sum()).sqrt()[None]])
    (made,) = orthogonalised(torch.diag(values)[None]).float()
    assert made.diagonal()[[0, 1, 2, 4]].sub(1).abs().max() < 0.2
    assert made.diagonal()[3] < 0.06
