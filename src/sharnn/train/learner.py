"""A model with everything that changes its weights in training.

Legend: B lanes · T tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from sharnn.config import Recipe
from sharnn.model import LanguageModel, RecurrentState
from sharnn.optim import WeightAverage, make_optimizers
from sharnn.train.estimate import training_slots
from sharnn.train.precision import Precision


class Learner:
    """A model, its optimisers, loss scaler and weight average.

    Its lanes are divided into `train.grad_accum_steps` groups. A step computes the gradient of one group
    after the other, and then changes the weights once.

    Attributes:
        model: The model.
        precision: Device and dtype.

    Args:
        recipe: All settings, with the model's vocabulary resolved.
        precision: As above.
    """

    def __init__(self, recipe: Recipe, precision: Precision) -> None:
        self._recipe, self.precision = recipe, precision
        self.model = LanguageModel(recipe.model).to(precision.device)
        self.model.recompute = recipe.train.activation_checkpointing
        self._optimizers = make_optimizers(self.model, recipe.optim)
        share = recipe.optim.average
        self._average = WeightAverage(self.model, share) if share > 0 else None
        self._scaler = precision.grad_scaler()

    def initial_states(self) -> list[RecurrentState]:
        """Return an empty state for each group of lanes."""
        groups = self._recipe.train.grad_accum_steps
        lanes, slots = self._recipe.data.num_lanes // groups, training_slots(self._recipe.model)
        return [self.model.initial_state(lanes, slots) for _ in range(groups)]

    def set_learning_rate(self, factor: float) -> float:
        """Scale the learning rates of the recipe by `factor`; return the first one."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
        return self._optimizers[0].param_groups[0]["lr"]

    def accumulate_gradients(
        self, inputs_BT: Tensor, targets_BT: Tensor, states: Sequence[RecurrentState]
    ) -> tuple[Tensor, list[RecurrentState]]:
        """Add the gradient of a segment to that of the weights; return the mean nats and the next states.

        Args:
            inputs_BT: Tokens.
            targets_BT: The token after each.
            states: One for each group of lanes. Their recall tables may be updated in place.
        """
        total = torch.zeros((), device=self.precision.device)
        after, groups = [], len(states)
        pairs = zip(inputs_BT.chunk(groups), targets_BT.chunk(groups), states, strict=True)
        for inputs, targets, state in pairs:
            with self.precision.autocast():
                nats_BT, state = self.model.nats(inputs, targets, state, consume=True)
            loss = nats_BT.mean() / groups
            self._scaler.scale(loss).backward()
            total += loss.detach()
            after.append(state.detach())
        return total, after

    def clip_gradients(self) -> Tensor:
        """Scale the gradient down to a norm of `optim.grad_clip`; return its norm before that."""
        if self._scaler.is_enabled():
            for optimizer in self._optimizers:
                self._scaler.unscale_(optimizer)
        limit = self._recipe.optim.grad_clip or float("inf")
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    def update(self, finite: bool) -> None:
        """Change the weights if the gradient is finite, and drop the gradient."""
        if finite:
            for optimizer in self._optimizers:
                self._scaler.step(optimizer)
            if self._average is not None:
                self._average.update()
        if self._scaler.is_enabled():
            self._scaler.update()
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def averaged(self) -> AbstractContextManager[None]:
        """Give the model, inside a `with` block, the weights to score and save."""
        return nullcontext() if self._average is None else self._average.applied()

    def state_dict(self) -> dict[str, Any]:
        """Return all but the weights, with the states of the random generators that dropout uses."""
        generators = {"cpu": torch.get_rng_state()}
        if self.precision.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.precision.device)
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "scaler": self._scaler.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "generators": generators,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; the model must have the weights that were saved with it."""
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            # JSON has no integers as keys.
            saved["state"] = {int(index): values for index, values in saved["state"].items()}
            optimizer.load_state_dict(saved)
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        generators = state["generators"]
        torch.set_rng_state(generators["cpu"].cpu())
        if self.precision.device.type == "cuda" and "cuda" in generators:
            torch.cuda.set_rng_state(generators["cuda"].cpu(), self.precision.device)
