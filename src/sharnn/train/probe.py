"""How long a training step takes on this machine: some are timed, others reckoned from those.

Legend: B lanes · T tokens of a segment · W window.
"""

from __future__ import annotations

import dataclasses
import time

import torch

from sharnn.amounts import Amount
from sharnn.config import Recipe
from sharnn.model import AttentionMemory, LanguageModel, RecurrentState
from sharnn.optim import WeightAverage, make_optimizers
from sharnn.train.estimate import available_memory_bytes, step_flops, training_slots
from sharnn.train.precision import Precision

#: What all probes of a run may take, of a budget in time and of any.
_MOST_SHARE, _MOST_SECONDS = 0.05, 3.0
#: Tokens of each lane in the first step, which finds cold caches and kernels to load.
_FIRST_TOKENS = 8
#: Steps are timed for that long, and at least two: the first one takes a fifth longer, in fresh memory.
_TIMED_SECONDS = 0.1


class StepTimes:
    """Knows what a step takes, from the steps of the real model that it has timed.

    A step that was not timed is reckoned from the timed one nearest to it, by what both multiply.

    Attributes:
        precision: Where and how steps are computed.
        free_bytes: What was free there before the first probe: a process keeps what probes have used.

    Args:
        precision: As above.
        budget: Of the run; probes take a small share of it.
    """

    def __init__(self, precision: Precision, budget: str) -> None:
        self.precision = precision
        self.free_bytes = available_memory_bytes(precision.device)
        amount = Amount.parse(budget, "train.budget")
        share = _MOST_SHARE * amount.value if amount.unit == "seconds" else _MOST_SECONDS
        self._seconds_left = min(share, _MOST_SECONDS)
        self._timed: dict[float, float] = {}  # seconds by what a step multiplies

    def seconds(self, recipe: Recipe) -> float:
        """Return what a step takes; at least one recipe must have been measured."""
        flops = step_flops(recipe)
        nearest = min(self._timed, key=lambda timed: max(timed / flops, flops / timed))
        return self._timed[nearest] * flops / nearest

    def measure(self, recipe: Recipe) -> bool:
        """Time a step, unless one of this size was or there is no time left; return whether it was done.

        The first is timed whatever it takes.
        """
        flops, first = step_flops(recipe), not self._timed
        if flops in self._timed:
            return False
        if not first and self._predicted(recipe, _FIRST_TOKENS) > self._seconds_left / 2:
            return False
        self._time(recipe, flops, first)
        if (
            self.precision.device.type == "cuda"
        ):  # others ask what is free, and what was used at most
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.precision.device)
        return True

    def _time(self, recipe: Recipe, flops: float, first: bool) -> None:
        """Time steps over segments as long as the time left allows."""
        self.precision.prepare()
        started = time.perf_counter()
        step, num_tokens = _Step(recipe, self.precision), recipe.data.segment_length
        # A GPU's kernels are made for a size, and its steps are short.
        step.run(_FIRST_TOKENS if self.precision.device.type == "cpu" else num_tokens)
        if first:  # it may have waited for a compiler
            started = time.perf_counter()
            self._timed[flops] = step.whole_seconds(_FIRST_TOKENS)
        while (
            num_tokens > _FIRST_TOKENS
            and 3 * self._predicted(recipe, num_tokens) > self._seconds_left
        ):
            num_tokens //= 2
        self._timed[flops] = step.whole_seconds(num_tokens)
        self._seconds_left -= time.perf_counter() - started

    def _predicted(self, recipe: Recipe, num_tokens: int) -> float:
        """Return what a step over shorter segments takes."""
        return self.seconds(recipe) * step_flops(recipe, num_tokens) / step_flops(recipe)


class _Step:
    """What `Trainer.step` computes, without a text, in a group of lanes whose memory is full."""

    def __init__(self, recipe: Recipe, precision: Precision) -> None:
        self.recipe, self.precision = recipe, precision
        self.num_groups = recipe.train.grad_accum_steps
        self.num_lanes = recipe.data.num_lanes // self.num_groups
        self.model = LanguageModel(recipe.model).to(precision.device)
        self.model.recompute = recipe.train.activation_checkpointing
        self.optimizers = make_optimizers(self.model, recipe.optim)
        share = recipe.optim.average
        self.average = WeightAverage(self.model, share) if share > 0 else None
        self.state = self._full_state()

    def _full_state(self) -> RecurrentState:
        state = self.model.initial_state(self.num_lanes, training_slots(self.recipe.model))
        layers, num_rows = [], self.recipe.model.window or 0
        for layer in state.layers:
            if layer.memory is not None:
                rows = layer.memory.rows.new_zeros(
                    self.num_lanes, num_rows, layer.memory.rows.shape[2]
                )
                rows = rows.to(self.precision.dtype)
                memory = AttentionMemory(rows, (num_rows,) * self.num_lanes)
                layer = dataclasses.replace(layer, memory=memory)
            layers.append(layer)
        return dataclasses.replace(state, layers=tuple(layers))

    def whole_seconds(self, num_tokens: int) -> float:
        """Return what a step of all groups takes over whole segments, from steps over `num_tokens`."""
        started = time.perf_counter()
        timed: list[tuple[float, float]] = []
        while len(timed) < 2 or time.perf_counter() - started < _TIMED_SECONDS:
            timed.append(self.run(num_tokens))
        passes, updates = map(min, zip(*timed, strict=True))
        segments = self.recipe.data.segment_length / num_tokens
        return self.num_groups * segments * passes + updates

    def run(self, num_tokens: int) -> tuple[float, float]:
        """Take a step; return the seconds of passing through the model and back, and of the update."""
        device = self.precision.device
        started = self._now()
        shape = self.num_lanes, num_tokens + 1
        tokens = torch.randint(self.recipe.model.vocab_size, shape, device=device)
        with self.precision.autocast():
            nats_BT, _ = self.model.nats(tokens[:, :-1], tokens[:, 1:], self.state, consume=True)
        nats_BT.mean().backward()
        passed = self._now()
        limit = self.recipe.optim.grad_clip or float("inf")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        return passed - started, self._now() - passed

    def _now(self) -> float:
        if self.precision.device.type == "cuda":
            torch.cuda.synchronize(self.precision.device)
        return time.perf_counter()
