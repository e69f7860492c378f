"""The contenders of a comparison, and its plan of runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharnn.amounts import Amount
from sharnn.checkpoint import read_model_folder
from sharnn.config import Recipe, to_dict
from sharnn.errors import ConfigError
from sharnn.recipe import Sections, parse_settings, resolve_recipe

#: Budgets from this length on use `Contender.long_recipe` and `long_given`.
LONG_SECONDS = 300
#: Settings that the comparison sets and that contenders may not have.
_DECIDED = ("data.texts", "train.budget", "train.seed", "train.device")


@dataclass(frozen=True)
class Budget:
    """How long each contender may train.

    Attributes:
        text: As given.
        amount: Its value.
    """

    text: str
    amount: Amount

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget of a text such as `90s`.

        Raises:
            ConfigError: The text has another form, or is zero.
        """
        amount = Amount.parse(text, "budget", share=False)
        if amount.value <= 0:
            raise ConfigError(f"budget is '{text}': it must be above 0")
        return cls(text, amount)

    @property
    def timed(self) -> bool:
        """Whether the budget is in time, which parallel runs would take from each other."""
        return self.amount.unit == "seconds"


@dataclass(frozen=True)
class Contender:
    """A recipe, and settings that override its own.

    Attributes:
        recipe: Name or file of the recipe.
        given: The settings, such as `{"model.embed_dim": 512}`.
        about: One line for the results.
        long_recipe: Another recipe for budgets of at least `LONG_SECONDS`.
        long_given: Further settings for these budgets.
    """

    recipe: str
    given: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    long_recipe: str | None = None
    long_given: Mapping[str, Any] = field(default_factory=dict)

    def named(self, budget: Budget) -> tuple[str, dict[str, Any]]:
        """Return the recipe's name and the given settings for a budget."""
        if budget.timed and budget.amount.value >= LONG_SECONDS:
            return self.long_recipe or self.recipe, {**self.given, **self.long_given}
        return self.recipe, dict(self.given)

    def resolve(self, name: str, budget: Budget, **decided: Any) -> Recipe:
        """Return the recipe to train, with every setting resolved.

        Args:
            name: The contender's name, for errors.
            budget: How long it trains.
            decided: Settings of the comparison: `texts`, `seed`, `device`.

        Raises:
            ConfigError: Settings do not exist or do not go together.
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
        """Return the command line of `sharnn train` with these settings."""
        recipe, given = self.named(budget)
        options = [word for key, value in given.items() for word in (f"--{key}", _as_word(value))]
        return shlex.join(["sharnn", "train", "--recipe", recipe, *options])


def _as_word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def comparable_settings(recipe: Recipe) -> Sections:
    """Return the settings of a recipe without those that the comparison sets."""
    sections = to_dict(recipe)
    for setting in _DECIDED:
        section, _, key = setting.partition(".")
        del sections[section][key]
    return sections


def parse_named(text: str) -> tuple[str, Contender]:
    """Return the name and the contender of NAME='RECIPE OPTIONS', with options of `sharnn train`.

    Raises:
        ConfigError: The text has another form, or a setting is unknown or set by the comparison.
    """
    name, _, line = text.partition("=")
    try:
        words = shlex.split(line)
    except ValueError as failure:
        raise ConfigError(f"contender '{line}' is not a valid command line: {failure}") from failure
    if not (name and words):
        raise ConfigError(f"contender is '{text}': give NAME='RECIPE OPTIONS'")
    recipe, *options = words
    if recipe.startswith("-"):
        raise ConfigError(f"contender {name} begins with {recipe}: give the name of a recipe first")
    try:
        given = parse_settings(options)
    except ConfigError as failure:
        raise ConfigError(f"contender {name}: {failure}") from failure
    for setting in given:
        if setting in _DECIDED:
            raise ConfigError(
                f"contender {name} has {setting}: remove it, the comparison sets it for all"
            )
    return name, Contender(recipe, given)


def named_contenders(
    names: Sequence[str], known: Mapping[str, Contender] | None = None
) -> dict[str, Contender]:
    """Return contenders by their names in the results.

    Args:
        names: Shipped recipes, YAML files, NAME='RECIPE OPTIONS', or names of `known` contenders.
        known: Contenders that have a name already.

    Raises:
        ConfigError: Two have the same name, or one has none of these forms.
    """
    contenders: dict[str, Contender] = {}
    for text in names:
        path = Path(text)
        if "=" in text and not path.name.endswith((".yaml", ".yml")):
            name, contender = parse_named(text)
        else:
            name = path.stem if path.suffix in (".yaml", ".yml") else text
            contender = (known or {}).get(text) or Contender(text)
        if name in contenders:
            raise ConfigError(
                f"there are two recipes called '{name}', {contenders[name].recipe} and {text}: rename "
                "or remove one"
            )
        contenders[name] = contender
    return contenders


@dataclass(frozen=True)
class Plan:
    """A planned run.

    Attributes:
        name: The contender's name.
        budget: How long it trains.
        recipe: The recipe, with every setting resolved.
        key: Everything that determines its figures, as JSON values; see `run_store.key_of`.
        facts: Further facts for the results, as JSON values.
    """

    name: str
    budget: Budget
    recipe: Recipe
    key: dict[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        budget: Budget,
        recipe: Recipe,
        conditions: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
    ) -> Plan:
        """Return a plan whose key is the conditions and what the recipe and the budget decide."""
        own = {
            "budget": {"value": budget.amount.value, "unit": budget.amount.unit},
            "seed": recipe.train.seed,
            "settings": comparable_settings(recipe),
        }
        return cls(name, budget, recipe, {**conditions, **own}, facts or {})

    @property
    def seed(self) -> int:
        """Seed of the run."""
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
    """Return all runs, ordered by budget, then seed, then contender.

    Args:
        contenders: By name.
        budgets: How long each trains.
        seeds: Seeds of the runs.
        text: The text to train on.
        device: As `train.device`.
        conditions: Further determinants of the figures, as JSON values: part of every plan's key.

    Raises:
        ConfigError: A contender has settings that do not exist or do not go together.
    """
    plans = []
    for budget in budgets:
        for seed in seeds:
            for name, contender in contenders.items():
                recipe = contender.resolve(name, budget, texts=[text], seed=seed, device=device)
                plans.append(Plan.of(name, budget, recipe, {**conditions, "device": device}))
    return plans
