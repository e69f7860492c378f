"""A running mean of the weights, to be scored and saved while the rate stays high."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Mean of a model's weights over about the last `share` of the steps taken so far.

    Polynomial-decay averaging (Shamir & Zhang, arXiv 1212.1824) with η = 1 / share - 1: after step t

        w̄_t = (1 - ρ_t) w̄_{t-1} + ρ_t w_t,    ρ_t = (η + 1) / (t + η)

    What a falling rate does for the weights at the end of a run, this does at every time: a run's length
    need not be known, and one that is stopped is worth its time.

    Args:
        model: Its parameters are followed; buffers are not.
        share: Above 0, at most 1 (the mean of all steps).
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        self.eta = 1 / share - 1
        self._parameters = dict(model.named_parameters())
        # None before the first step: what the model has until then, be it loaded later, is its mean.
        self._means: dict[str, Tensor] = {}
        self._count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step."""
        self._count += 1
        if self._count == 1:  # ρ_1 = 1
            self._means = self._copies()
            return
        rho = (self.eta + 1) / (self._count + self.eta)
        means = [self._means[name] for name in self._parameters]
        torch._foreach_lerp_(means, list(self._parameters.values()), rho)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the mean inside of a `with`; nothing is copied."""
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
        """Return the count of steps and the latest weights; the mean is what a checkpoint's model has."""
        latest = {name: parameter.detach() for name, parameter in self._parameters.items()}
        return {"count": self._count, "latest": latest}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from `state_dict`, while the model has the mean; it has the latest weights afterwards.

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
