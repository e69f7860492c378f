"""Weights, operations and memory that training a recipe needs, and the memory of this machine.

Legend: D embed_dim · F boom_dim.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path

import psutil
import torch

from sharnn.config import ModelConfig, Recipe, to_dict
from sharnn.model import count_parameters
from sharnn.train.precision import Precision

#: Operations of Muon for each weight and feature: three products in each of five iterations.
_MUON_FLOPS = 30
#: Upper limit for the slots of a recall table in training.
_TRAINING_SLOTS = 1 << 14
#: Lanes in which a run validates.
VALIDATION_LANES = 16
#: Files with a container's memory limit, its usage and the kinds of usage, in both versions of cgroups.
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def available_memory_bytes(device: torch.device) -> float:
    """Return the free memory of `device` in bytes, within the limit of a container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    return min([free, *(_left_in_cgroup(*names) for names in _CGROUP_FILES)])


def _left_in_cgroup(limit: str, usage: str, stat: str) -> float:
    """Return the bytes that a container's limit leaves; infinity without a limit.

    Cached files count as usage there, but are free: the system drops them when memory is needed.
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
    """Return the bytes that this process uses on `device`; on CUDA the peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return psutil.Process().memory_info().rss


def training_slots(model: ModelConfig) -> int:
    """Return the slots of a recall table in training.

    Each lane reads only a part of the text, and a checkpoint contains the tables of all lanes. A model
    that was trained with few slots can be used with more (EXPERIMENTS.md).
    """
    return min(model.recall_slots, _TRAINING_SLOTS)


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
    """Return the operations of a step, those of Muon included.

    Args:
        recipe: All settings.
        segment_length: Tokens of each lane; default: the recipe's.
    """
    num_tokens = recipe.data.num_lanes * (segment_length or recipe.data.segment_length)
    flops = num_tokens * flops_per_token(recipe)
    if recipe.optim.name == "muon":
        flops += _MUON_FLOPS * recipe.model.embed_dim * block_weights(recipe.model)
    return flops


def block_weights(model: ModelConfig) -> int:
    """Return the number of weights in the blocks."""
    return multiplied_weights(model) - model.vocab_size * model.embed_dim


def multiplied_weights(model: ModelConfig) -> int:
    """Return the number of weights that take part in products: all but tables that are looked up."""
    without_tables = dataclasses.replace(
        model, longest_ngram=0, ngram_rows=0, ngram_min_count=0, recall_orders=[], recall_slots=0
    )
    return _count_weights(json.dumps(to_dict(without_tables)))


@functools.cache
def _count_weights(settings: str) -> int:
    """Return the number of weights of a model; cached, because it takes a few ms."""
    return count_parameters(ModelConfig(**json.loads(settings)))


def memory_bytes(recipe: Recipe, precision: Precision) -> int:
    """Return the estimated peak of weights, gradients, moments, activations and states."""
    model, data = recipe.model, recipe.data
    width, boom = model.embed_dim, model.boom_dim
    small = 4 if precision.dtype == torch.float32 else 2
    parameters = 4 * count_parameters(model)
    moments = 2 if recipe.optim.name != "muon" else 1.5
    means = 1 if recipe.optim.average > 0 else 0
    lanes = data.num_lanes // recipe.train.grad_accum_steps
    tokens = lanes * data.segment_length
    # For each token a block keeps its normalised inputs, the LSTM's gates and cells, and two values of
    # width F. With checkpointing only one block does, with its gradient; the others keep their input.
    whole_blocks = 2 if recipe.train.activation_checkpointing else model.num_layers
    per_token = whole_blocks * (16 * width + 2 * boom) * small
    if recipe.train.activation_checkpointing:
        per_token += 4 * model.num_layers * width
    per_token += _num_heads(recipe) * 6 * width * small + 3 * model.vocab_size * 4
    rows = model.window * data.num_lanes * width * small
    memory_rows = _num_heads(recipe) * (2 if model.architecture == "transformer" else 1) * rows
    attended = memory_rows // recipe.train.grad_accum_steps * 2
    slots = training_slots(model) * data.num_lanes + model.recall_slots * VALIDATION_LANES
    recalled = 8 * len(model.recall_orders) * slots
    runtime = 300 * 2**20
    kept = memory_rows + attended + recalled
    return int(parameters * (2 + moments + means) + tokens * per_token + kept + runtime)


def _num_heads(recipe: Recipe) -> int:
    """Return the number of blocks that attend."""
    if recipe.model.architecture == "transformer":
        return recipe.model.num_layers
    return len(recipe.model.attending_blocks)
