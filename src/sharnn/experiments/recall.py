"""The recall task: train a model on key-value pairs, and score the values it is asked for on new pairs.

Legend: B lanes · T tokens of a segment · N bytes of a lane · Q values that are asked for.

The text is that of `data.recall_task`. Scores are bits for each digit of an asked value: 4 is chance, 0
is certainty. The training loss would not do, because weights memorise the pairs of the training text,
each of which is asked for many times. So scores are of another text, read by fixed weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sharnn.config import ModelConfig, OptimConfig
from sharnn.data.recall_task import RecallTask, find_asked, make_recall_text
from sharnn.model import LanguageModel
from sharnn.optim import make_optimizers

_WARMUP_STEPS = 50
_SCORED_LANES = 8
#: Bytes of each lane that are scored, after those that fill the memory.
_SCORED_BYTES = 2048
#: Added to a seed, so that the scored texts differ from the training texts.
_HELD_OUT = 1_000_003


@dataclass(frozen=True)
class RecallPlan:
    """A training on the recall task.

    Attributes:
        model: Settings of the model.
        optim: Settings of its optimizers; the rate rises over 50 steps and then stays.
        task: Settings of the text.
        num_lanes: B.
        segment_length: T.
        num_steps: Training steps.
        score_every: Steps between scores.
        window: Distances beyond it are scored separately, whatever the model's own window is.
        seed: Seed of weights and texts.
    """

    model: ModelConfig
    optim: OptimConfig
    task: RecallTask = field(default_factory=RecallTask)
    num_lanes: int = 16
    segment_length: int = 128
    num_steps: int = 300
    score_every: int = 50
    window: int = 1024
    seed: int = 0


@dataclass(frozen=True)
class RecallScore:
    """Mean bits of asked digits by the distance to the previous occurrence of their value.

    A mean over no digits is NaN.

    Attributes:
        step: Training steps so far.
        tokens: Tokens read so far.
        inside: Within a segment's length.
        beyond: Further back than a segment, within the window.
        outside: Further back than the window.
        query_grad: Norm of the gradient of the first head's query in the last step; 0 without a head.
    """

    step: int
    tokens: int
    inside: float
    beyond: float
    outside: float
    query_grad: float = 0.0


def train_on_recall(
    plan: RecallPlan, alter: Callable[[LanguageModel], None] | None = None
) -> Iterator[tuple[LanguageModel, RecallScore]]:
    """Train from scratch on one pass over a text; yield the model and its score at intervals.

    Args:
        plan: The training.
        alter: May change the initial weights of the model.
    """
    torch.manual_seed(plan.seed)
    model = LanguageModel(plan.model)
    if alter is not None:
        alter(model)
    optimizers = make_optimizers(model, plan.optim)
    groups = [(group, group["lr"]) for o in optimizers for group in o.param_groups]
    num_tokens = plan.num_steps * plan.segment_length
    lanes_BN = _lanes(plan.task, plan.num_lanes, num_tokens + 1, plan.seed)
    state = model.initial_state(plan.num_lanes)
    for step in range(1, plan.num_steps + 1):
        for group, rate in groups:
            group["lr"] = rate * min(step / _WARMUP_STEPS, 1.0)
        segment = lanes_BN[:, (step - 1) * plan.segment_length :][:, : plan.segment_length + 1]
        nats_BT, state = model.train().nats(segment[:, :-1], segment[:, 1:], state)
        state = state.detach()
        nats_BT.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.optim.grad_clip or math.inf)
        gradient = _query_grad(model)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % plan.score_every == 0:
            inside, beyond, outside = score_recall(
                model.eval(), plan.task, plan.segment_length, plan.window, plan.seed
            )
            tokens = step * plan.num_lanes * plan.segment_length
            yield model, RecallScore(step, tokens, inside, beyond, outside, gradient)


@torch.no_grad()
def score_recall(
    model: LanguageModel,
    task: RecallTask,
    segment_length: int,
    window: int,
    seed: int = 0,
    skipped: int | None = None,
) -> tuple[float, float, float]:
    """Return the mean bits of asked digits: within a segment, beyond it, and outside the window.

    The model reads held-out text in a few lanes, in segments, with carried state. The first `skipped`
    bytes of each lane (by default a window) fill the memory and are not scored. Neither are the eight
    furthest rows of the window, because some digits of a value there are outside it.
    """
    skipped = window if skipped is None else skipped
    num_tokens = -(-(skipped + _SCORED_BYTES) // segment_length) * segment_length
    lanes_BN = _lanes(task, _SCORED_LANES, num_tokens + 1, seed + _HELD_OUT)
    distances_BN = torch.stack([_distances(lane_N) for lane_N in lanes_BN])[:, 1:]
    state, parts = model.initial_state(_SCORED_LANES), []
    for start in range(0, num_tokens, segment_length):
        segment = lanes_BN[:, start : start + segment_length + 1]
        nats_BT, state = model.nats(segment[:, :-1], segment[:, 1:], state)
        parts.append(nats_BT)
    bits_BN = torch.cat(parts, dim=1) / math.log(2)
    asked_BN = distances_BN > 0
    asked_BN[:, :skipped] = False
    inside_BN = asked_BN & (distances_BN <= segment_length)
    outside_BN = asked_BN & (distances_BN > window)
    beyond_BN = asked_BN & (distances_BN > segment_length) & (distances_BN <= window - 8)
    inside, beyond, outside = (
        float(bits_BN[chosen].mean()) for chosen in (inside_BN, beyond_BN, outside_BN)
    )
    return inside, beyond, outside


def _lanes(task: RecallTask, num_lanes: int, num_bytes: int, seed: int) -> Tensor:
    """Return lanes `[B, N]` that have no pair in common."""
    longest_line = 1 + task.key_digits + 1 + task.value_digits + 1
    texts = (
        make_recall_text(task, num_bytes + longest_line, seed * num_lanes + lane).text
        for lane in range(num_lanes)
    )
    lanes = [np.frombuffer(text[:num_bytes], np.uint8).astype(np.int64) for text in texts]
    return torch.from_numpy(np.stack(lanes))


def _distances(lane_N: Tensor) -> Tensor:
    """Return the distance of each asked digit to its previous occurrence, `[N]`; 0 for other bytes."""
    asked = find_asked(bytes(lane_N.to(torch.uint8).numpy()))
    distances_N = np.zeros(len(lane_N), np.int64)
    distances_N[asked.positions_QN] = asked.distances_Q[:, None]
    return torch.from_numpy(distances_N)


def _query_grad(model: LanguageModel) -> float:
    gradients = (
        parameter.grad
        for name, parameter in model.named_parameters()
        if name.endswith("attention.query.weight")
    )
    first = next(gradients, None)
    return 0.0 if first is None else float(first.norm())
