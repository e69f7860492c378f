"""What a run will take on this machine: tokens, time and memory, from the timed steps of `probe`."""

from __future__ import annotations

from dataclasses import dataclass

from sharnn.amounts import Amount
from sharnn.config import Recipe
from sharnn.errors import TrainingError
from sharnn.model import count_parameters
from sharnn.train.estimate import memory_bytes
from sharnn.train.probe import StepTimes


@dataclass(frozen=True)
class Forecast:
    """Expected cost of a run.

    Attributes:
        num_parameters: Number of weights.
        memory_bytes: Peak of weights, gradients, moments, activations and states.
        tokens_per_second: Training speed.
        seconds: Time to the end of the budget.
        tokens: Tokens seen by then.
    """

    num_parameters: int
    memory_bytes: int
    tokens_per_second: float
    seconds: float
    tokens: float


def forecast_run(recipe: Recipe, times: StepTimes, epoch_tokens: int) -> Forecast:
    """Return the expected cost of a run.

    Args:
        recipe: All settings.
        times: Of steps; one of this recipe should have been measured.
        epoch_tokens: Tokens to train on.
    """
    rate = _step_tokens(recipe) / times.seconds(recipe)
    tokens = planned_tokens(recipe, times, epoch_tokens)
    memory = memory_bytes(recipe, times.precision)
    return Forecast(count_parameters(recipe.model), memory, rate, tokens / rate, tokens)


def planned_tokens(recipe: Recipe, times: StepTimes, epoch_tokens: int) -> float:
    """Return how many tokens a run will see; `times` matters only in a time budget."""
    budget = Amount.parse(recipe.train.budget, "train.budget")
    if budget.unit == "seconds":
        return budget.value * _step_tokens(recipe) / times.seconds(recipe)
    units = {"tokens": 1, "epochs": epoch_tokens, "steps": _step_tokens(recipe)}
    return budget.value * units[budget.unit]


def _step_tokens(recipe: Recipe) -> int:
    return recipe.data.num_lanes * recipe.data.segment_length


def check_memory(recipe: Recipe, times: StepTimes) -> None:
    """Refuse a run that does not fit into memory.

    Raises:
        TrainingError: It needs more than the device had free; names the settings that would help.
    """
    needed = memory_bytes(recipe, times.precision)
    if needed > times.free_bytes:
        raise TrainingError(
            f"training needs about {needed / 2**30:.1f} GiB and {times.free_bytes / 2**30:.1f} GiB are "
            f"free on {times.precision.device}: lower data.num_lanes, data.segment_length, "
            "model.window, model.embed_dim or model.recall_slots, raise train.grad_accum_steps, or "
            "switch train.activation_checkpointing on"
        )
