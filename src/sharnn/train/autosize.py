"""Settings that a run chooses when it begins: as large a model as budget, machine and text pay for.

What 20, 90 and 600 seconds buy at which size is measured in EXPERIMENTS.md, and so are n-grams over one
and over six passes and dropout over six, 19 and 38; other budgets follow by the number of tokens that a
weight sees.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from sharnn.amounts import Amount
from sharnn.config import Recipe
from sharnn.model.ngrams import COUNTED_TOKENS
from sharnn.train.estimate import block_weights, check_memory, memory_bytes, planned_tokens
from sharnn.train.probe import StepTimes

#: Widths and depths to choose from, by rising cost.
SIZES = (
    (64, 2), (96, 2), (128, 2), (192, 2), (256, 2), (256, 4), (384, 4), (512, 4), (768, 4), (1024, 4),
    (1536, 4),
)  # fmt: skip
#: Tokens that a weight of the blocks should see within the budget.
_TOKENS_PER_WEIGHT = 4.0
#: Weights of the blocks for each token of the text at most.
_WEIGHTS_PER_TEXT_TOKEN = 2.0
#: Passes over the text within the budget, and the dropout from there on.
_DROPOUTS = ((48.0, 0.2), (12.0, 0.1), (0.0, 0.0))
#: Passes over the text, how often an n-gram must then stand in it to have a row, and the tokens of a text
#: (as far as they are counted) for each that does: what was read once is not known by heart yet.
_NGRAMS = ((3.0, 50, 300), (1.0, 20, 130), (0.0, 5, 50))
#: Rows of a table of n-grams are a power of two between these.
_FEWEST_ROWS, _MOST_ROWS = 1 << 10, 1 << 16
#: Share of the free memory that a run may plan with.
_MEMORY_SHARE = 0.7


def fit(recipe: Recipe, times: StepTimes, num_tokens: int) -> Recipe:
    """Return the recipe with the settings in `train.fit` chosen, and nothing left to choose.

    Args:
        recipe: With the tokenizer's vocabulary.
        times: What steps take; those that decide are measured.
        num_tokens: Of the text to train on.
    """
    chosen = recipe.train.fit
    if not chosen:
        return recipe
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, fit=[]))
    if "data.num_lanes" in chosen:
        recipe = _with(recipe, "data", num_lanes=_lanes(recipe, num_tokens))
    if "model.embed_dim" in chosen:
        recipe = _largest_that_pays(recipe, times, num_tokens, "model.num_layers" in chosen)
    check_memory(recipe, times)
    if _depends_on_speed(recipe):
        times.measure(recipe)
    epochs = planned_tokens(recipe, times, num_tokens) / max(num_tokens, 1)
    values = dict.fromkeys((name for name in chosen if name.endswith("dropout")), _dropout(epochs))
    if recipe.model.longest_ngram:
        ngrams = _ngrams(epochs, num_tokens)
        values |= {name: value for name, value in ngrams.items() if name in chosen}
    model = {name.removeprefix("model."): value for name, value in values.items()}
    return _with(recipe, "model", **model)


def _largest_that_pays(
    recipe: Recipe, times: StepTimes, num_tokens: int, with_depth: bool
) -> Recipe:
    """Return the largest size that sees enough tokens and fits text and memory, else the smallest.

    Steps of the size that seems to be it and of the next larger one are timed until both are known, or
    there is no time left.
    """
    smallest, *others = (
        resized(recipe, dim, depth if with_depth else recipe.model.num_layers)
        for dim, depth in SIZES
    )
    sizes = [smallest, *(sized for sized in others if _has_room(sized, times, num_tokens))]
    if _depends_on_speed(recipe):
        times.measure(smallest)
    while True:
        paying = (i for i, sized in enumerate(sizes) if _pays(sized, times, num_tokens))
        best = max(paying, default=0)
        deciding = sizes[best : best + 2] if _depends_on_speed(recipe) else []
        if not any(times.measure(sized) for sized in deciding):
            return sizes[best]


def _has_room(recipe: Recipe, times: StepTimes, num_tokens: int) -> bool:
    """Whether text and memory are enough for a size."""
    return (
        block_weights(recipe.model) <= _WEIGHTS_PER_TEXT_TOKEN * num_tokens
        and memory_bytes(recipe, times.precision) <= _MEMORY_SHARE * times.free_bytes
    )


def _pays(recipe: Recipe, times: StepTimes, num_tokens: int) -> bool:
    """Whether the budget is enough for a size."""
    tokens = planned_tokens(recipe, times, num_tokens)
    return tokens >= _TOKENS_PER_WEIGHT * block_weights(recipe.model)


def _depends_on_speed(recipe: Recipe) -> bool:
    return Amount.parse(recipe.train.budget, "train.budget").unit == "seconds"


def _with(recipe: Recipe, section: str, **values: Any) -> Recipe:
    changed = dataclasses.replace(getattr(recipe, section), **values)
    return dataclasses.replace(recipe, **{section: changed})


def resized(recipe: Recipe, dim: int, depth: int) -> Recipe:
    """Return the recipe at another size; what followed from the old one follows from the new one."""
    model = recipe.model
    values: dict[str, Any] = {"embed_dim": dim, "num_layers": depth}
    if model.boom_dim == 4 * model.embed_dim:
        values["boom_dim"] = None
    if model.architecture == "transformer":
        values["num_heads"] = None
    elif model.attention_layers == [max(model.num_layers - 2, 0)]:
        values["attention_layers"] = "one"
    elif model.attention_layers == list(range(model.num_layers)):
        values["attention_layers"] = "all"
    return _with(recipe, "model", **values)


def _lanes(recipe: Recipe, num_tokens: int) -> int:
    """Return the recipe's lanes, halved until each has some segments to read."""
    most = num_tokens // (4 * recipe.data.segment_length)
    lanes, groups = recipe.data.num_lanes, recipe.train.grad_accum_steps
    while lanes > groups and lanes > most and lanes % (2 * groups) == 0:
        lanes //= 2
    return lanes


def _ngrams(epochs: float, num_tokens: int) -> dict[str, int]:
    """Return which n-grams get a row, by the settings' names."""
    min_count, tokens_per_row = next(rule for least, *rule in _NGRAMS if epochs >= least)
    rows = min(num_tokens, COUNTED_TOKENS) / tokens_per_row
    rows = 1 << math.ceil(math.log2(max(rows, 1)))
    return {
        "model.ngram_min_count": min_count,
        "model.ngram_rows": min(max(rows, _FEWEST_ROWS), _MOST_ROWS),
    }


def _dropout(epochs: float) -> float:
    return next(rate for least, rate in _DROPOUTS if epochs >= least)
