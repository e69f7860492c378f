"""Base class of optimisers that update a whole group of tensors at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class GroupedOptimizer(Optimizer):
    """Calls `step_group` with those tensors of each group that have a gradient."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every tensor that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self.step_group(group, params, [p.grad for p in params])
        return loss

    def step_group(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """Update `params`, at least one tensor, with their gradients and the group's settings."""
        raise NotImplementedError

    def moments(self, params: list[Tensor], *names: str) -> list[list[Tensor]]:
        """Return for each name the running moment of each tensor, zeros at the start."""
        for p in params:
            if not self.state[p]:
                self.state[p] = {name: torch.zeros_like(p) for name in names}
        return [[self.state[p][name] for p in params] for name in names]
