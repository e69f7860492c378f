"""Settings that a run chooses when it begins: the largest model that budget, machine and text allow.

EXPERIMENTS.md has the measurements: sizes for 20, 90 and 600 seconds, n-grams over one and six epochs,
dropout over 6, 19 and 38 epochs. Other budgets follow from the number of tokens that each weight sees.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from sharnn.amounts import Amount
from sharnn.config import Recipe
from sharnn.model.ngrams import COUNTED_TOKENS
from sharnn.train.estimate import block_weights, memory_bytes
from sharnn.train.forecast import check_memory, planned_tokens
from sharnn.train.probe import StepTimes

#: Widths and depths to choose from, in order of increasing cost.
SIZES = (
    (64, 2), (96, 2), (128, 2), (192, 2), (256, 2), (256, 4), (384, 4), (512, 4), (768, 4), (1024, 4),
    (1536, 4),
)  # fmt: skip
#: Minimum number of tokens in the budget for each weight of the blocks.
_TOKENS_PER_WEIGHT = 4.0
#: Maximum number of weights in the blocks for each token of the text.
_WEIGHTS_PER_TEXT_TOKEN = 2.0
#: Dropout by the number of epochs in the budget: the minimum number, and the dropout from there on.
_DROPOUTS = ((48.0, 0.2), (12.0, 0.1), (0.0, 0.0))
#: Rules for n-grams by the number of epochs: the minimum number, how often an n-gram must occur to have a
#: row, and the tokens of the text (of those in which n-grams are counted) for each row. Fewer epochs
#: allow more rows, because a text that was read only once is not memorised yet.
_NGRAMS = ((3.0, 50, 300), (1.0, 20, 130), (0.0, 5, 50))
#: The rows of an n-gram table are a power of two between these.
_FEWEST_ROWS, _MOST_ROWS = 1 << 10, 1 << 16
#: Share of the free memory that a chosen size may need.
_MEMORY_SHARE = 0.7


def fit(recipe: Recipe, times: StepTimes, num_tokens: int) -> Recipe:
    """Return the recipe with the settings in `train.fit` chosen, and `train.fit` empty.

    Args:
        recipe: With the tokenizer's vocabulary.
        times: Of steps; those that decide are measured.
        num_tokens: Tokens to train on.
    """
    chosen = recipe.train.fit
    if not chosen:
        return recipe
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, fit=[]))
    if "data.num_lanes" in chosen:
        recipe = _with(recipe, "data", num_lanes=_lanes(recipe, num_tokens))
    if "model.embed_dim" in chosen:
        recipe = _largest_size(recipe, times, num_tokens, "model.num_layers" in chosen)
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


def _largest_size(recipe: Recipe, times: StepTimes, num_tokens: int, with_depth: bool) -> Recipe:
    """Return the largest size that sees enough tokens and fits text and memory, else the smallest.

    In a time budget, the likely size and the next larger one are timed until both are known, or no time
    for probes is left.
    """
    smallest, *others = (
        resized(recipe, dim, depth if with_depth else recipe.model.num_layers)
        for dim, depth in SIZES
    )
    sizes = [smallest, *(sized for sized in others if _fits(sized, times, num_tokens))]
    if _depends_on_speed(recipe):
        times.measure(smallest)
    while True:
        trained = (i for i, sized in enumerate(sizes) if _sees_enough(sized, times, num_tokens))
        best = max(trained, default=0)
        deciding = sizes[best : best + 2] if _depends_on_speed(recipe) else []
        if not any(times.measure(sized) for sized in deciding):
            return sizes[best]


def _fits(recipe: Recipe, times: StepTimes, num_tokens: int) -> bool:
    """Return whether text and memory are enough for a size."""
    return (
        block_weights(recipe.model) <= _WEIGHTS_PER_TEXT_TOKEN * num_tokens
        and memory_bytes(recipe, times.precision) <= _MEMORY_SHARE * times.free_bytes
    )


def _sees_enough(recipe: Recipe, times: StepTimes, num_tokens: int) -> bool:
    """Return whether the budget is enough for a size."""
    tokens = planned_tokens(recipe, times, num_tokens)
    return tokens >= _TOKENS_PER_WEIGHT * block_weights(recipe.model)


def _depends_on_speed(recipe: Recipe) -> bool:
    return Amount.parse(recipe.train.budget, "train.budget").unit == "seconds"


def _with(recipe: Recipe, section: str, **values: Any) -> Recipe:
    changed = dataclasses.replace(getattr(recipe, section), **values)
    return dataclasses.replace(recipe, **{section: changed})


def resized(recipe: Recipe, dim: int, depth: int) -> Recipe:
    """Return the recipe at another size; settings derived from the old one are derived again."""
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
    """Return the recipe's number of lanes, halved until each has four segments, if possible."""
    most = num_tokens // (4 * recipe.data.segment_length)
    lanes, groups = recipe.data.num_lanes, recipe.train.grad_accum_steps
    while lanes > groups and lanes > most and lanes % (2 * groups) == 0:
        lanes //= 2
    return lanes


def _ngrams(epochs: float, num_tokens: int) -> dict[str, int]:
    """Return the settings that decide which n-grams have a row, by name."""
    min_count, tokens_per_row = next(rule for least, *rule in _NGRAMS if epochs >= least)
    rows = min(num_tokens, COUNTED_TOKENS) / tokens_per_row
    rows = 1 << math.ceil(math.log2(max(rows, 1)))
    return {
        "model.ngram_min_count": min_count,
        "model.ngram_rows": min(max(rows, _FEWEST_ROWS), _MOST_ROWS),
    }


def _dropout(epochs: float) -> float:
    return next(rate for least, rate in _DROPOUTS if epochs >= least)
