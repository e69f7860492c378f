"""Minimum-trust LAMB: the original's trajectory, and the laws of the trust ratio."""

from __future__ import annotations

import pytest
import torch

from parity_files import ParityFile, relative_error
from sharnn.optim import Lamb


def test_trajectory_equals_the_original() -> None:
    parity = ParityFile.load("lamb_min_trust")
    config, tensors = parity.config, parity.tensors
    params = [tensors[f"step0.param{i}"].clone().requires_grad_() for i in range(4)]
    hyper = {key: config[key] for key in ("lr", "betas", "eps", "weight_decay", "min_trust")}
    optimizer = Lamb(params, **hyper)
    for step in range(1, config["steps"] + 1):
        for index, param in enumerate(params):
            param.grad = tensors[f"step{step}.grad{index}"]
        before = [p.detach().clone() for p in params]
        optimizer.step()
        for index, param in enumerate(params):
            moved = param.detach() - before[index]
            expected = tensors[f"step{step}.param{index}"]
            assert relative_error(param, expected) < 1e-6
            state = optimizer.state[param]
            direction = state["exp_avg"] / (state["exp_avg_sq"].sqrt() + config["eps"])
            direction += config["weight_decay"] * before[index]
            trust = -(moved / (config["lr"] * direction)).median()
            assert abs(trust / tensors[f"step{step}.trust_ratio{index}"] - 1) < 1e-3


@pytest.mark.parametrize(
    ("scale", "min_trust", "expected"),
    [
        (1e-3, 0.25, 0.25),  # a tensor that starts small is trusted no less than min_trust
        (1e-3, 0.0, None),  # without a minimum its own ratio holds
        (1e6, 0.25, None),  # norms count up to 10, and there is no upper cap on the ratio
        (0.0, 0.25, 1.0),  # a tensor of zeros moves at the full rate
    ],
)
def test_trust(scale: float, min_trust: float, expected: float | None) -> None:
    param = torch.full((4, 4), scale, requires_grad=True)
    param.grad = torch.ones(4, 4)
    direction = 0.1 / (0.001**0.5 + 1e-6)
    if expected is None:
        expected = min(4 * scale, 10.0) / (4 * direction)
    before = param.detach().clone()
    Lamb([param], lr=0.5, min_trust=min_trust).step()
    moved = (before - param.detach()).double()
    torch.testing.assert_close(
        moved, torch.full((4, 4), 0.5 * expected * direction).double(), rtol=0.1, atol=1e-9
    )


def test_parameters_without_gradient_stay() -> None:
    used, unused = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    used.grad = torch.ones(3)
    Lamb([used, unused]).step()
    assert torch.equal(unused, torch.ones(3))
    assert not torch.equal(used, torch.ones(3))
