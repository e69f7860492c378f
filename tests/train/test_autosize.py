"""Settings that a run chooses, and settings that it leaves as given."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sharnn.config import ModelConfig, Recipe
from sharnn.errors import ConfigError
from sharnn.recipe import load_recipe_settings, recipe_from_settings
from sharnn.train.autosize import SIZES
from sharnn.train.autosize import fit as fit_with
from sharnn.train.estimate import step_flops
from sharnn.train.precision import Precision
from sharnn.train.probe import StepTimes

CPU = Precision(torch.device("cpu"), torch.float32)


class Machine(StepTimes):
    """A machine of known speed, independent of other processes.

    Args:
        gflops: Speed of large steps; small ones are slower.
        probes: Number of steps that can be measured.
    """

    def __init__(self, recipe: Recipe, gflops: float = 42, probes: int = 100) -> None:
        super().__init__(CPU, recipe.train.budget)
        self.free_bytes = 16 << 30
        self.speed, self.probes = gflops * 1e9, probes
        self.measured: list[Recipe] = []

    def measure(self, recipe: Recipe) -> bool:
        flops = step_flops(recipe)
        if flops in self._timed or len(self.measured) >= self.probes:
            return False
        self.measured.append(recipe)
        self._timed[flops] = 0.01 + flops / self.speed
        return True


def fit(recipe: Recipe, num_tokens: int, **machine: float) -> Recipe:
    return fit_with(recipe, Machine(recipe, **machine), num_tokens)


def desktop(budget: str = "10m", **train: object) -> Recipe:
    recipe = recipe_from_settings(load_recipe_settings("desktop"))
    return dataclasses.replace(
        recipe, train=dataclasses.replace(recipe.train, budget=budget, **train)
    )


def size_of(recipe: Recipe) -> tuple[int, int]:
    return recipe.model.embed_dim, recipe.model.num_layers


def test_a_longer_budget_gets_a_larger_model() -> None:
    sizes = [fit(desktop(b), 10**8) for b in ("1s", "90s", "10m", "1h", "9000h")]
    ranks = [SIZES.index(size_of(recipe)) for recipe in sizes]
    assert ranks == sorted(ranks)
    assert ranks[0] == 0
    assert ranks[1] < ranks[2] < ranks[3] < ranks[4] == len(SIZES) - 1
    assert all(recipe.train.fit == [] for recipe in sizes)
    for recipe in sizes:
        assert recipe.model.boom_dim == 4 * recipe.model.embed_dim
        assert recipe.model.attention_layers == [max(recipe.model.num_layers - 2, 0)]


def test_a_faster_machine_gets_a_larger_model() -> None:
    slow, quick = (fit(desktop(), 10**8, gflops=gflops) for gflops in (42, 1_000))
    assert quick.model.embed_dim > slow.model.embed_dim


def test_the_sizes_that_decide_are_measured() -> None:
    """The chosen size and the next larger one are measured, and few others, because each costs time."""
    recipe = desktop("20m")
    machine = Machine(recipe)
    chosen = size_of(fit_with(recipe, machine, 10**8))
    measured = [size_of(recipe) for recipe in machine.measured]
    assert {SIZES[0], chosen, SIZES[SIZES.index(chosen) + 1]} <= set(measured)
    assert len(measured) <= 5


def test_without_time_to_measure_sizes_follow_from_the_smallest() -> None:
    """Small steps have fewer FLOP/s, so the error is towards a smaller size."""
    exact, scaled = (size_of(fit(desktop(), 10**8, probes=probes)) for probes in (100, 1))
    assert SIZES.index(exact) - 1 <= SIZES.index(scaled) <= SIZES.index(exact)


def test_a_short_text_gets_a_smaller_model_fewer_rows_and_more_dropout() -> None:
    long, short = fit(desktop(), 10**8), fit(desktop(), 10**5)
    assert size_of(short) < size_of(long)
    assert short.model.ngram_rows < long.model.ngram_rows
    assert short.model.ngram_min_count > long.model.ngram_min_count
    assert short.model.hidden_dropout > long.model.hidden_dropout == 0
    assert short.model.input_dropout == short.model.output_dropout == short.model.hidden_dropout
    assert short.model.attention_dropout == 0  # not named


def test_lanes_of_a_short_text_still_hold_segments() -> None:
    recipe = fit(desktop(), 3_000)
    assert 4 * recipe.data.num_lanes * recipe.data.segment_length <= 3_000
    assert fit(desktop(), 10**7).data.num_lanes == desktop().data.num_lanes
    assert fit(desktop(grad_accum_steps=64), 3_000).data.num_lanes == 64


def test_memory_bounds_the_size() -> None:
    recipe = desktop("1000h")
    free, tight = Machine(recipe), Machine(recipe)
    tight.free_bytes = 1 << 30
    assert size_of(fit_with(recipe, tight, 10**9)) < size_of(fit_with(recipe, free, 10**9))


def test_settings_that_are_not_listed_stay() -> None:
    recipe = desktop(fit=["model.hidden_dropout"])
    fitted = fit(recipe, 10**6)
    assert size_of(fitted) == size_of(recipe)
    assert fitted.data == recipe.data
    plain = desktop(fit=[])
    assert fit(plain, 10**5) == plain


def test_a_given_depth_and_boom_go_with_the_chosen_width() -> None:
    recipe = desktop(fit=["model.embed_dim"])
    model = dataclasses.replace(recipe.model, num_layers=3, attention_layers="all", boom_dim=2048)
    fitted = fit(dataclasses.replace(recipe, model=model), 10**8)
    assert fitted.model.num_layers == 3
    assert fitted.model.attention_layers == [0, 1, 2]
    assert fitted.model.boom_dim == 2048


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_baselines_are_sized_alike(architecture: str) -> None:
    recipe = desktop()
    recipe = dataclasses.replace(recipe, model=ModelConfig(architecture=architecture, embed_dim=64))
    fitted = fit(recipe, 10**8)
    assert fitted.model.embed_dim > 64
    assert fitted.model.architecture == architecture


def test_budgets_in_tokens_need_no_clock() -> None:
    recipe = desktop("20Mtokens")
    machine = Machine(recipe, probes=0)
    assert size_of(fit_with(recipe, machine, 10**8)) > SIZES[0]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"fit": ["model.embed_dims"]}, "did you mean 'model.embed_dim'"),
        ({"fit": ["model.num_layers"]}, "list that too"),
        ({"fit": ["model.embed_dim"], "init_from": "base"}, "weights of base determine"),
    ],
)
def test_what_cannot_be_chosen_is_refused(train: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        desktop(**train)
