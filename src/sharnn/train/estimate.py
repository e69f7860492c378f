"""What a run will take, said before it starts.

Legend: B lanes · T tokens of a segment · D embed_dim · F boom_dim · V vocab_size · W window.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from sharnn.amounts import Amount
from sharnn.config import ModelConfig, Recipe, to_dict
from sharnn.errors import TrainingError
from sharnn.model import count_parameters
from sharnn.train.precision import Precision

if TYPE_CHECKING:
    from sharnn.train.probe import StepTimes

#: Multiply-adds times two for each weight and feature in a step of Muon: five times three products.
_MUON_FLOPS = 30
#: Slots of a table of recall in training at most.
_TRAINING_SLOTS = 1 << 14
#: Lanes in which a run reads its valid split.
VALIDATION_LANES = 16
#: Where Linux tells a container its limit, its use and the kinds of that, in both versions of cgroups.
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a run.

    Attributes:
        num_parameters: Weights.
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


def estimate_run(recipe: Recipe, times: StepTimes, lane_tokens: int) -> Estimate:
    """Estimate a run from its settings and what steps take here.

    Args:
        recipe: With a resolved model.
        times: Of steps; one of this recipe should have been measured.
        lane_tokens: Tokens of an epoch over all lanes.
    """
    step_tokens = recipe.data.num_lanes * recipe.data.segment_length
    rate = step_tokens / times.seconds(recipe)
    tokens = planned_tokens(recipe, times, lane_tokens)
    budget = Amount.parse(recipe.train.budget, "train.budget")
    seconds = budget.value if budget.unit == "seconds" else tokens / rate
    memory = memory_bytes(recipe, times.precision)
    return Estimate(count_parameters(recipe.model), memory, rate, seconds, tokens)


def planned_tokens(recipe: Recipe, times: StepTimes, lane_tokens: int) -> float:
    """Return how many tokens a run will read; only of a budget in time does it depend on `times`."""
    budget = Amount.parse(recipe.train.budget, "train.budget")
    step_tokens = recipe.data.num_lanes * recipe.data.segment_length
    if budget.unit == "seconds":
        return budget.value * step_tokens / times.seconds(recipe)
    return budget.value * {"tokens": 1, "epochs": lane_tokens, "steps": step_tokens}[budget.unit]


def check_memory(recipe: Recipe, times: StepTimes) -> None:
    """Refuse a run that cannot fit.

    Raises:
        TrainingError: More is needed than the device had free; says what would lower it.
    """
    needed = memory_bytes(recipe, times.precision)
    if needed > times.free_bytes:
        raise TrainingError(
            f"training needs about {needed / 2**30:.1f} GiB and {times.free_bytes / 2**30:.1f} GiB are "
            f"free on {times.precision.device}: lower data.num_lanes, data.segment_length, "
            "model.window, model.embed_dim or model.recall_slots, raise train.grad_accum_steps, or "
            "switch train.activation_checkpointing on"
        )


def available_memory_bytes(device: torch.device) -> float:
    """Return the memory that can still be had on `device`, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    return min([free, *(_left_in_cgroup(*names) for names in _CGROUP_FILES)])


def _left_in_cgroup(limit: str, usage: str, stat: str) -> float:
    """Return what a container's limit leaves of the memory, in bytes; infinity where there is none.

    What its use counts of files that were read can be given up at once, and is not taken off.
    """
    try:
        most = int((_CGROUP / limit).read_text())
        used = int((_CGROUP / usage).read_text())
        counts = dict(line.split() for line in (_CGROUP / stat).read_text().splitlines())
    except (OSError, ValueError):  # no such limit, or it is "max"
        return math.inf
    files = int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
    return max(most - used + files, 0)


def used_memory_bytes(device: torch.device) -> int:
    """Return the memory of this process on `device`, in bytes; on CUDA its peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return psutil.Process().memory_info().rss


def training_slots(model: ModelConfig) -> int:
    """Return the slots of a table of recall in training.

    A lane reads but a part of the text, and a checkpoint holds the tables of all lanes; how many slots
    there are later is no matter of training (EXPERIMENTS.md).
    """
    return min(model.recall_slots or 0, _TRAINING_SLOTS)


def flops_per_token(recipe: Recipe) -> float:
    """Return the operations of one token in training that the mathematics needs, memories full.

    A multiply-add counts as two. Each weight takes part in a product forward and in two backward, for
    the gradients of its input and of itself: 6. The attention is counted by `attention_flops_per_token`.
    Not counted: look-ups (n-grams, recall), what a step computes once for all tokens (the
    over-parameterised value gate, the optimiser), and operations that are not products. A split softmax
    is counted as a whole one.
    """
    per_token = dataclasses.replace(recipe.model, overparam_value_gate=False)
    # Tied: the embedding's weights are the softmax's products.
    return 6.0 * multiplied_weights(per_token) + attention_flops_per_token(recipe)


def attention_flops_per_token(recipe: Recipe) -> float:
    """Return the part of `flops_per_token` that grows with the window.

    Forward, a row in reach takes a product with the query and one with its weight, 2 D each. Backward,
    the gradients of the weights and of the query take as much: 8 D. Only the segment's own rows take a
    gradient themselves, as keys and as values: another 4 D, so 12 D. (`ops/attention.py` has the
    equations.)
    """
    model, length, window = recipe.model, recipe.data.segment_length, recipe.model.window
    # The mean over the positions of a segment, of which the t-th reaches min(t, window) of its rows.
    whole = min(length, window)
    own = (whole * (whole + 1) / 2 + (length - whole) * window) / length
    reached = max(window - length, 0) + own if model.reach == "segment" else window
    return _num_heads(recipe) * (8.0 * reached + 4.0 * own) * model.embed_dim


def step_flops(recipe: Recipe, segment_length: int | None = None) -> float:
    """Return multiply-adds times two of a step, those of Muon among them.

    Args:
        recipe: With a resolved model.
        segment_length: Tokens of each lane, the recipe's where not given.
    """
    num_tokens = recipe.data.num_lanes * (segment_length or recipe.data.segment_length)
    flops = num_tokens * flops_per_token(recipe)
    if recipe.optim.name == "muon":
        flops += _MUON_FLOPS * recipe.model.embed_dim * block_weights(recipe.model)
    return flops


def block_weights(model: ModelConfig) -> int:
    """Return the weights of the blocks."""
    return multiplied_weights(model) - model.vocab_size * model.embed_dim


def multiplied_weights(model: ModelConfig) -> int:
    """Return the weights that every token meets: all but tables that are looked up."""
    met = dataclasses.replace(
        model, longest_ngram=0, ngram_rows=0, ngram_min_count=0, recall_orders=[], recall_slots=0
    )
    return _counted(json.dumps(to_dict(met)))


@functools.cache
def _counted(settings: str) -> int:
    """Return the parameters of a model; that takes a few ms, and sizes are asked for again and again."""
    return count_parameters(ModelConfig(**json.loads(settings)))


def memory_bytes(recipe: Recipe, precision: Precision) -> int:
    """Return the peak of weights, gradients, moments, activations and states."""
    model, data = recipe.model, recipe.data
    width, boom = model.embed_dim, model.boom_dim or 0
    small = 4 if precision.dtype == torch.float32 else 2
    parameters = 4 * count_parameters(model)
    moments = 2 if recipe.optim.name != "muon" else 1.5
    means = 1 if recipe.optim.average > 0 else 0
    lanes = data.num_lanes // recipe.train.grad_accum_steps
    tokens = lanes * data.segment_length
    # Per token a block keeps its normed inputs, the LSTM's gates and cells, and two F-wide values.
    # With checkpointing just one block does, and its gradient; the others keep what enters them.
    whole_blocks = 2 if recipe.train.activation_checkpointing else model.num_layers
    per_token = whole_blocks * (16 * width + 2 * boom) * small
    if recipe.train.activation_checkpointing:
        per_token += 4 * model.num_layers * width
    per_token += _num_heads(recipe) * 6 * width * small + 3 * model.vocab_size * 4
    rows = recipe.model.window * data.num_lanes * width * small
    memory_rows = _num_heads(recipe) * (2 if model.architecture == "transformer" else 1) * rows
    attended = memory_rows // recipe.train.grad_accum_steps * 2
    slots = training_slots(model) * data.num_lanes + model.recall_slots * VALIDATION_LANES
    recalled = 8 * len(model.recall_orders) * slots
    runtime = 300 * 2**20
    kept = memory_rows + attended + recalled
    return int(parameters * (2 + moments + means) + tokens * per_token + kept + runtime)


def _num_heads(recipe: Recipe) -> int:
    """Number of blocks that attend."""
    if recipe.model.architecture == "transformer":
        return recipe.model.num_layers
    return len(recipe.model.attending_blocks)
