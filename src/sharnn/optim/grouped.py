"""What optimisers share that move a whole group of tensors at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class GroupedOptimizer(Optimizer):
    """Hands each group's tensors that have a gradient to `step_group`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step on every tensor that has a gradient."""
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
        """Move `params`, at least one, by their gradients and the group's settings."""
        raise NotImplementedError

    def moments(self, params: list[Tensor], *names: str) -> list[list[Tensor]]:
        """Return for each name what is remembered of each tensor, zeros at the start."""
        for p in params:
            if not self.state[p]:
                self.state[p] = {name: torch.zeros_like(p) for name in names}
        return [[self.state[p][name] for p in params] for name in names]
