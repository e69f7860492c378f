"""The scale of a comparison: it shrinks width, lanes and text of every recipe by one factor S.

| setting | at scale S |
|---|---|
| model.embed_dim D | D', the multiple of 16, and of twice the heads, that is nearest to S·D |
| model.boom_dim F | F·D'/D, at least D' |
| model.num_heads H | S·H, at least 1: heads keep their width |
| data.num_lanes B | S·B, a multiple of `train.grad_accum_steps`, at least one for each |
| data.max_train_tokens | S of the tokens that the recipe reads of the train split |

Depth, window and segment length stay, because the architectures are compared in them.

At every scale, all recipes validate equally often on equally many tokens. A warm-up in steps would
outlast a short budget. It becomes the share of the budget that it is of the paper's full training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sharnn.amounts import Amount
from sharnn.config import Recipe
from sharnn.errors import ConfigError

_WIDTH_MULTIPLE = 16
#: Steps of the paper's training: 25 epochs over the 90 million bytes of enwik8's train split, in 16 lanes
#: of segments of 1024 tokens, one in twenty of which is half as long.
PAPER_STEPS = 25 * 90_000_000 / (16 * (0.95 * 1024 + 0.05 * 512))
#: The interval of validations, and their most tokens. Validation takes part of a budget in time, so these
#: are equal for all.
VALIDATE_EVERY, VALIDATION_TOKENS = "10%", 65_536


@dataclass(frozen=True)
class Change:
    """A setting of a recipe that the comparison changes.

    Attributes:
        name: Such as `model.embed_dim`.
        before: Value in the recipe; for `data.max_train_tokens` the tokens that it would read.
        after: Value in the comparison.
    """

    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        values = (f"{v:,}" if isinstance(v, int) else str(v) for v in (self.before, self.after))
        return " → ".join(values)


def check_scale(scale: float) -> None:
    """Check a scale.

    Raises:
        ConfigError: It is not above 0 and at most 1.
    """
    if not 0 < scale <= 1:
        raise ConfigError(
            f"scale is {scale:g}: give a share above 0 and at most 1, which leaves recipes as they are"
        )


def changes(recipe: Recipe, scale: float, train_tokens: int, valid_tokens: int) -> list[Change]:
    """Return the settings of a recipe that a comparison changes.

    Args:
        recipe: The recipe as given.
        scale: S, above 0 and at most 1.
        train_tokens: Tokens of the whole train split.
        valid_tokens: Tokens of the whole valid split.
    """
    changed = [*_scaled(recipe, scale, train_tokens), *_decided(recipe, scale, valid_tokens)]
    return [change for change in changed if change.before != change.after]


def _scaled(recipe: Recipe, scale: float, train_tokens: int) -> list[Change]:
    if scale == 1:
        return []
    model, groups = recipe.model, recipe.train.grad_accum_steps
    heads = max(round(scale * model.num_heads), 1) if model.num_heads else 0
    multiple = math.lcm(_WIDTH_MULTIPLE, 2 * heads or 1)
    width = multiple * max(round(scale * model.embed_dim / multiple), 1)
    lanes = groups * max(round(scale * recipe.data.num_lanes / groups), 1)
    read = min(recipe.data.max_train_tokens or train_tokens, train_tokens)
    scaled = [Change("model.embed_dim", model.embed_dim, width)]
    if model.boom_dim:
        boom = max(round(model.boom_dim * width / model.embed_dim), width)
        scaled.append(Change("model.boom_dim", model.boom_dim, boom))
    if model.num_heads:
        scaled.append(Change("model.num_heads", model.num_heads, heads))
    return [
        *scaled,
        Change("data.num_lanes", recipe.data.num_lanes, lanes),
        Change("data.max_train_tokens", read, max(int(scale * read), 1)),
    ]


def _decided(recipe: Recipe, scale: float, valid_tokens: int) -> list[Change]:
    train, warmup = recipe.train, recipe.optim.warmup
    scored = min(VALIDATION_TOKENS, max(int(scale * valid_tokens), 2))
    return [
        Change("optim.warmup", warmup, share_of_budget(warmup)),
        Change("train.validate_every", train.validate_every, VALIDATE_EVERY),
        Change("train.validation_tokens", train.validation_tokens, scored),
    ]


def share_of_budget(warmup: str) -> str:
    """Return a warm-up in steps as the share of the budget that it is of the paper's training."""
    amount = Amount.parse(warmup, "optim.warmup")
    if amount.unit != "steps" or amount.value == 0:
        return warmup
    return f"{min(amount.value / PAPER_STEPS, 1):.3%}"
