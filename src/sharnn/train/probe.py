"""How long a training step takes on this machine: some steps are timed, others follow from those."""

from __future__ import annotations

import dataclasses
import time

import torch

from sharnn.amounts import Amount
from sharnn.config import Recipe
from sharnn.model import AttentionMemory, RecurrentState
from sharnn.train.estimate import available_memory_bytes, step_flops
from sharnn.train.learner import Learner
from sharnn.train.precision import Precision

#: Limits on the time of all probes of a run: a share of a time budget, and seconds for any budget.
_MOST_SHARE, _MOST_SECONDS = 0.05, 3.0
#: Tokens of each lane in the first step, which has cold caches and loads kernels.
_FIRST_TOKENS = 8
#: Steps are timed for this long, and at least two: the first takes a fifth longer, in fresh memory.
_TIMED_SECONDS = 0.1


class StepTimes:
    """Seconds of training steps, from timed steps of the real model.

    The seconds of a size that was not timed are those of the nearest timed size, scaled by the FLOPs.

    Attributes:
        precision: Device and dtype of the steps.
        free_bytes: Free memory of the device before the first probe; a process keeps the memory that
            probes have used.

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
        self._timed: dict[float, float] = {}  # seconds of a step by its FLOPs

    def seconds(self, recipe: Recipe) -> float:
        """Return the seconds of a step; at least one recipe must have been measured."""
        flops = step_flops(recipe)
        nearest = min(self._timed, key=lambda timed: max(timed / flops, flops / timed))
        return self._timed[nearest] * flops / nearest

    def measure(self, recipe: Recipe) -> bool:
        """Time a step, unless one of this size was timed or no time is left; return whether it was done.

        The first call always times one.
        """
        flops, first = step_flops(recipe), not self._timed
        if flops in self._timed:
            return False
        if not first and self._predicted(recipe, _FIRST_TOKENS) > self._seconds_left / 2:
            return False
        self._time(recipe, flops, first)
        if self.precision.device.type == "cuda":  # free memory and its peak are reported elsewhere
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.precision.device)
        return True

    def _time(self, recipe: Recipe, flops: float, first: bool) -> None:
        """Time steps over segments as long as the time left allows."""
        self.precision.prepare()
        started = time.perf_counter()
        step, num_tokens = _Step(recipe, self.precision), recipe.data.segment_length
        # GPU kernels are selected for a size, and steps on a GPU are short.
        step.run(_FIRST_TOKENS if self.precision.device.type == "cpu" else num_tokens)
        if first:  # the step may have waited for a compiler, so its time does not count
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
        """Return the seconds of a step over shorter segments."""
        return self.seconds(recipe) * step_flops(recipe, num_tokens) / step_flops(recipe)


class _Step:
    """A step of a `Learner` without a text, in one group of lanes with full memories."""

    def __init__(self, recipe: Recipe, precision: Precision) -> None:
        self.recipe, self.learner = recipe, Learner(recipe, precision)
        self.device = precision.device
        empty, *others = self.learner.initial_states()
        self.state = _filled(empty, recipe.model.window, precision.dtype)
        self.num_groups = 1 + len(others)

    def whole_seconds(self, num_tokens: int) -> float:
        """Return the seconds of a whole step, from steps of a group over `num_tokens` of each lane."""
        started = time.perf_counter()
        timed: list[tuple[float, float]] = []
        while len(timed) < 2 or time.perf_counter() - started < _TIMED_SECONDS:
            timed.append(self.run(num_tokens))
        passes, updates = map(min, zip(*timed, strict=True))
        segments = self.recipe.data.segment_length / num_tokens
        return self.num_groups * segments * passes + updates

    def run(self, num_tokens: int) -> tuple[float, float]:
        """Take a step; return the seconds of the forward and backward pass, and of the update."""
        started = self._now()
        shape = self.state.num_lanes, num_tokens + 1
        tokens = torch.randint(self.recipe.model.vocab_size, shape, device=self.device)
        self.learner.accumulate_gradients(tokens[:, :-1], tokens[:, 1:], [self.state])
        passed = self._now()
        self.learner.clip_gradients()
        self.learner.update(finite=True)
        return passed - started, self._now() - passed

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _filled(state: RecurrentState, window: int, dtype: torch.dtype) -> RecurrentState:
    """Return a state whose attention memories have `window` rows in each lane."""
    layers = []
    for layer in state.layers:
        if layer.memory is not None:
            num_lanes, _, width = layer.memory.rows.shape
            rows = layer.memory.rows.new_zeros(num_lanes, window, width, dtype=dtype)
            layer = dataclasses.replace(layer, memory=AttentionMemory(rows, (window,) * num_lanes))
        layers.append(layer)
    return dataclasses.replace(state, layers=tuple(layers))
