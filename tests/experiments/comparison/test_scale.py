"""The scale law: everything shrinks together, and what comes out is a recipe."""

from __future__ import annotations

import dataclasses
import math

import pytest

from sharnn.amounts import Amount
from sharnn.config import Recipe
from sharnn.errors import ConfigError
from sharnn.experiments.comparison.scale import (
    PAPER_STEPS,
    Change,
    changes,
    check_scale,
    share_of_budget,
)
from sharnn.model import count_parameters
from sharnn.recipe import load_recipe_settings, recipe_from_settings, shipped_recipes

TRAIN, VALID = 3_000_000, 200_000
PAPERS = ("paper-enwik8-one", "paper-enwik8-all", "paper-no-attention")
RECIPES = {name: recipe_from_settings(load_recipe_settings(name)) for name in shipped_recipes()}


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """Return the recipe that a comparison trains, all values checked by its own classes."""
    for change in changes(recipe, scale, TRAIN, VALID):
        section, name = change.name.split(".")
        values = dataclasses.replace(getattr(recipe, section), **{name: change.after})
        recipe = dataclasses.replace(recipe, **{section: values})
    return recipe


@pytest.mark.parametrize("name", RECIPES)
def test_all_sizes_shrink_together_and_stay_valid(name: str) -> None:
    whole, before = RECIPES[name], RECIPES[name]
    for scale in (0.5, 0.25, 0.125, 0.03, 0.001):
        recipe = scaled(whole, scale)
        model, data = recipe.model, recipe.data
        assert 16 <= model.embed_dim <= before.model.embed_dim
        assert abs(model.embed_dim - scale * whole.model.embed_dim) <= 16
        assert abs(data.num_lanes - scale * whole.data.num_lanes) <= 1
        assert data.max_train_tokens == int(scale * TRAIN)
        assert recipe.train.validation_tokens <= scale * VALID
        if model.boom_dim:
            assert whole.model.boom_dim is not None
            assert model.boom_dim * whole.model.embed_dim == whole.model.boom_dim * model.embed_dim
        if model.num_heads:
            assert model.embed_dim % (2 * model.num_heads) == 0
        assert (model.num_layers, model.window, data.segment_length) == (
            whole.model.num_layers, whole.model.window, whole.data.segment_length,
        )  # fmt: skip
        before = recipe


def test_a_half_of_the_width_is_a_quarter_of_the_weights() -> None:
    for name in ("paper-enwik8-one", "plain-lstm", "transformer"):
        whole, half = (count_parameters(scaled(RECIPES[name], s).model) for s in (1, 0.5))
        assert half == pytest.approx(whole / 4, rel=0.03)


def test_groups_of_lanes_and_a_text_already_cut_are_kept_in_mind() -> None:
    recipe = RECIPES["transformer"]
    recipe = dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, max_train_tokens=1_000),
        train=dataclasses.replace(recipe.train, grad_accum_steps=4),
    )
    assert scaled(recipe, 0.25).data.num_lanes == 4
    assert scaled(recipe, 0.01).data.num_lanes == 4
    assert scaled(recipe, 0.25).data.max_train_tokens == 250
    assert scaled(recipe, 1).data.max_train_tokens == 1_000


def test_a_scale_of_one_leaves_sizes_as_they_are() -> None:
    recipe = RECIPES["paper-enwik8-one"]
    names = [change.name for change in changes(recipe, 1, TRAIN, VALID)]
    assert names == ["optim.warmup", "train.validate_every", "train.validation_tokens"]


def test_a_warm_up_in_steps_is_the_share_it_is_of_the_papers_training() -> None:
    """At the paper's own length it is the paper's own 800 steps."""
    for name in PAPERS:
        share = Amount.parse(scaled(RECIPES[name], 0.25).optim.warmup, "optim.warmup")
        assert share.unit == "budget"
        assert share.value * PAPER_STEPS == pytest.approx(800, rel=1e-3)
    assert share_of_budget("3%") == "3%"
    assert share_of_budget("0steps") == "0steps"
    assert share_of_budget("1Msteps") == "100.000%"
    # 25 epochs of 90 MB in 16 lanes of about a thousand tokens.
    assert 130_000 < PAPER_STEPS < 150_000


@pytest.mark.parametrize("scale", [0, -0.5, 1.5, math.nan])
def test_a_scale_that_shrinks_nothing_or_all_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="a share above 0"):
        check_scale(scale)


def test_the_papers_recipes_are_those_of_the_paper() -> None:
    """Table and appendix of arXiv 1911.11423: all but what the two runs differ in is the same."""
    one, every, none = (RECIPES[name] for name in PAPERS)
    assert (one.model.attention_layers, every.model.attention_layers) == ([2], [0, 1, 2, 3])
    assert none.model.attention_layers == []
    assert (one.data.num_lanes, every.data.num_lanes) == (16, 8)
    # The last two of 25 epochs at half the rate; with attention everywhere from epoch 16 on.
    assert one.optim.halve_at == [pytest.approx(23 / 25)]
    assert every.optim.halve_at[0] * float(every.train.budget.removesuffix("epochs")) == (
        pytest.approx(16, abs=1e-4)
    )
    assert Change("optim.warmup", "800steps", "0.568%") in changes(one, 1, TRAIN, VALID)
    for recipe in (one, every, none, RECIPES["plain-lstm"]):
        assert recipe.optim == dataclasses.replace(one.optim, halve_at=recipe.optim.halve_at)
        assert recipe.data.segment_length == 1024
        assert recipe.data.random_segments
