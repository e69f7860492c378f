"""A running mean of the weights, for evaluation and saving while the learning rate stays high."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Mean of a model's weights over about the last `share` of the steps taken so far.

    Polynomial-decay averaging (Shamir & Zhang, arXiv 1212.1824) with η = 1 / share - 1: after step t

        w̄_t = (1 - ρ_t) w̄_{t-1} + ρ_t w_t,    ρ_t = (η + 1) / (t + η)

    At every step the mean does for the weights what learning-rate decay does at the end of a run. So the
    length of a run need not be known in advance, and a run can be stopped at any time.

    Args:
        model: Its parameters are averaged; buffers are not.
        share: Above 0, at most 1 (the mean of all steps).
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        self.eta = 1 / share - 1
        self._parameters = dict(model.named_parameters())
        # Empty before the first step: until then the model's weights, even if loaded later, are the mean.
        self._means: dict[str, Tensor] = {}
        self._count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights after one more step to the mean."""
        self._count += 1
        if self._count == 1:  # ρ_1 = 1
            self._means = self._copies()
            return
        rho = (self.eta + 1) / (self._count + self.eta)
        means = [self._means[name] for name in self._parameters]
        torch._foreach_lerp_(means, list(self._parameters.values()), rho)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the mean weights inside a `with` block, without copying."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, mean in self._means.items():
            parameter = self._parameters[name]
            parameter.data, self._means[name] = mean, parameter.data

    def _copies(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def state_dict(self) -> dict[str, object]:
        """Return the number of steps and the latest weights; a checkpoint's model has the mean."""
        latest = {name: parameter.detach() for name, parameter in self._parameters.items()}
        return {"count": self._count, "latest": latest}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from `state_dict`. The model must have the mean weights, and then has the latest ones.

        Raises:
            KeyError: There is no such state, or it is of another model.
        """
        count, latest = state["count"], state["latest"]
        assert isinstance(count, int)
        assert isinstance(latest, Mapping)
        self._count = count
        self._means = self._copies() if count else {}
        for name, parameter in self._parameters.items():
            parameter.copy_(latest[name])
