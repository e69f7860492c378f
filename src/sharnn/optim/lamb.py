"""LAMB with a minimum trust ratio: layer-wise rates that never fall below a share of the global rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sharnn.optim.grouped import GroupedOptimizer

#: Norms of weights are clamped to this (You et al. 2019, the clamp φ of LAMB).
_MAX_WEIGHT_NORM = 10.0


class Lamb(GroupedOptimizer):
    """The SHA-RNN paper's optimiser (section 4; docs/differences_from_2019.md §4).

    With `m = β₁ m + (1 - β₁) g` and `v = β₂ v + (1 - β₂) g²`, neither corrected for bias:

        s = m / (√v + ε) + wd · p
        trust = max(min(‖p‖, 10) / ‖s‖, min_trust), or 1 where either norm is 0
        p = p - lr · trust · s

    Each tensor has its own trust ratio. In plain LAMB it goes to 0 for tensors that start small, such as
    the embeddings here; the lower bound keeps them learning.

    Args:
        params: Tensors or groups.
        lr: Learning rate.
        betas: Decay rates of the first and second moment.
        eps: Added to √v.
        weight_decay: Weight decay wd, added to the step s before the trust ratio is computed.
        min_trust: Lower bound of the trust ratio; 0 is plain LAMB. From 1 on, no step is shortened.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        min_trust: float = 0.25,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "min_trust": min_trust,
        }
        super().__init__(params, defaults)

    def step_group(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """Take one step; see the class for the equations."""
        first, second = self.moments(params, "exp_avg", "exp_avg_sq")
        beta1, beta2 = group["betas"]
        torch._foreach_mul_(first, beta1)
        torch._foreach_add_(first, grads, alpha=1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, value=1 - beta2)

        steps = torch._foreach_sqrt(second)
        torch._foreach_add_(steps, group["eps"])
        torch._foreach_reciprocal_(steps)
        torch._foreach_mul_(steps, first)
        if group["weight_decay"]:
            torch._foreach_add_(steps, params, alpha=group["weight_decay"])
        trusts = _trust_ratios(params, steps, group["min_trust"])
        torch._foreach_mul_(steps, trusts)
        torch._foreach_add_(params, steps, alpha=-group["lr"])


def _trust_ratios(
    params: list[Tensor], steps: tuple[Tensor, ...] | list[Tensor], min_trust: float
) -> list[Tensor]:
    """Return one trust ratio for each tensor, on the device, so that the host need not wait for it."""
    weight_norms = torch.stack(torch._foreach_norm(params)).clamp(max=_MAX_WEIGHT_NORM)
    step_norms = torch.stack(torch._foreach_norm(steps))
    both = (weight_norms > 0) & (step_norms > 0)
    ratios = torch.where(both, weight_norms / step_norms.clamp_min(1e-30), 1.0)
    return list(ratios.clamp(min=min_trust).unbind())
