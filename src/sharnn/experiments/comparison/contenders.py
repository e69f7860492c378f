"""Who takes part in a comparison, and which runs it asks for."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharnn.amounts import Amount
from sharnn.checkpoint import read_model_folder
from sharnn.config import Recipe, to_dict
from sharnn.errors import ConfigError
from sharnn.recipe import Sections, parse_settings, resolve_recipe

#: From here on a contender's recipe may be another, see `Contender.long_recipe`.
LONG_SECONDS = 300
#: Settings that the comparison decides, and no contender.
_DECIDED = ("data.texts", "train.budget", "train.seed", "train.device")


@dataclass(frozen=True)
class Budget:
    """How long each contender may train.

    Attributes:
        text: As typed.
        amount: What it means.
    """

    text: str
    amount: Amount

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget that a text names.

        Raises:
            ConfigError: It names none.
        """
        amount = Amount.parse(text, "budget", share=False)
        if amount.value <= 0:
            raise ConfigError(f"budget is '{text}': it must be more than nothing")
        return cls(text, amount)

    @property
    def timed(self) -> bool:
        """Whether it is in time, which runs side by side would take from each other."""
        return self.amount.unit == "seconds"


@dataclass(frozen=True)
class Contender:
    """A recipe, and settings that win over its own.

    Attributes:
        recipe: Its name or file.
        given: The settings, such as `{"model.embed_dim": 512}`.
        about: One line for the results.
        long_recipe: The recipe of budgets from `LONG_SECONDS` on, where that is another.
        long_given: Settings of these budgets, beside the others.
    """

    recipe: str
    given: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    long_recipe: str | None = None
    long_given: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str, words: Sequence[str]) -> Contender:
        """Return the contender that a recipe and options of `sharnn train` behind it make.

        Raises:
            ConfigError: No recipe is first, or an option is unknown or the comparison's to decide.
        """
        recipe, *options = words
        if recipe.startswith("-"):
            raise ConfigError(f"contender {name} begins with {recipe}: a recipe's name comes first")
        try:
            given = parse_settings(options)
        except ConfigError as failure:
            raise ConfigError(f"contender {name}: {failure}") from failure
        decided = next((setting for setting in given if setting in _DECIDED), None)
        if decided is not None:
            raise ConfigError(
                f"contender {name} has {decided}: the comparison decides that for all"
            )
        return cls(recipe, given)

    def named(self, budget: Budget) -> tuple[str, dict[str, Any]]:
        """Return the recipe's name and the given settings at a budget."""
        if budget.timed and budget.amount.value >= LONG_SECONDS:
            return self.long_recipe or self.recipe, {**self.given, **self.long_given}
        return self.recipe, dict(self.given)

    def resolve(self, name: str, budget: Budget, **decided: Any) -> Recipe:
        """Return the recipe that it trains, every setting resolved.

        Args:
            name: Of the contender, for errors.
            budget: How long it trains.
            decided: What the comparison decides: `texts`, `seed`, `device`.

        Raises:
            ConfigError: It has settings that do not exist or do not go together.
        """
        recipe, given = self.named(budget)
        given["train.budget"] = budget.text
        for key, value in decided.items():
            given[f"data.{key}" if key == "texts" else f"train.{key}"] = value
        try:
            return resolve_recipe(recipe, given, lambda model: read_model_folder(model).config)
        except ConfigError as failure:
            raise ConfigError(f"contender {name}: {failure}") from failure

    def as_typed(self, budget: Budget) -> str:
        """Return the command line of `sharnn train` that gives these settings."""
        recipe, given = self.named(budget)
        options = [word for key, value in given.items() for word in (f"--{key}", _as_word(value))]
        return shlex.join(["sharnn", "train", "--recipe", recipe, *options])


def _as_word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def comparable_settings(recipe: Recipe) -> Sections:
    """Return the settings of a recipe but for those that the comparison decides."""
    sections = to_dict(recipe)
    for setting in _DECIDED:
        section, _, key = setting.partition(".")
        del sections[section][key]
    return sections


def parse_named(text: str) -> tuple[str, Contender]:
    """Return the name and the contender of NAME='RECIPE OPTIONS'.

    Raises:
        ConfigError: It has not that form.
    """
    name, _, line = text.partition("=")
    try:
        words = shlex.split(line)
    except ValueError as failure:
        raise ConfigError(f"contender '{line}' is no command line: {failure}") from failure
    if not (name and words):
        raise ConfigError(f"contender is '{text}': give NAME='RECIPE OPTIONS'")
    return name, Contender.parse(name, words)


@dataclass(frozen=True)
class Plan:
    """A run that a comparison asks for.

    Attributes:
        name: The contender's.
        budget: How long.
        recipe: What it trains with, every setting resolved.
        key: All that makes its figures, as JSON values: runs of the same key need not be repeated.
        facts: What else the results say of it, as JSON values.
    """

    name: str
    budget: Budget
    recipe: Recipe
    key: dict[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Seed of its weights."""
        return self.recipe.train.seed

    def __str__(self) -> str:
        return f"{self.name} · {self.budget.text} · seed {self.seed}"


def make_plans(
    contenders: Mapping[str, Contender],
    budgets: Sequence[Budget],
    seeds: Sequence[int],
    text: str,
    device: str,
    conditions: Mapping[str, Any],
) -> list[Plan]:
    """Return all runs: a budget after the other, seeds one after the other, contenders in turn.

    Args:
        contenders: By name.
        budgets: How long each trains.
        seeds: Of the weights.
        text: What they train on.
        device: As `train.device`.
        conditions: What else makes the figures of a run, as JSON values: part of every plan's key.

    Raises:
        ConfigError: A contender has settings that do not exist or do not go together.
    """
    plans = []
    for budget in budgets:
        amount = {"value": budget.amount.value, "unit": budget.amount.unit}
        for seed in seeds:
            for name, contender in contenders.items():
                recipe = contender.resolve(name, budget, texts=[text], seed=seed, device=device)
                settings = comparable_settings(recipe)
                own = {"budget": amount, "seed": seed, "device": device, "settings": settings}
                plans.append(Plan(name, budget, recipe, {**conditions, **own}))
    return plans
