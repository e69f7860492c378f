"""Who takes part in a comparison, and which runs it asks for."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sharnn.amounts import Amount
from sharnn.errors import ConfigError

#: From here on a contender's recipe may be another, see `Contender.long_recipe`.
LONG_SECONDS = 300
#: What the comparison decides, and no contender.
_DECIDED = (
    "--recipe", "--budget", "--train.budget", "--train.seed", "--device", "--train.device", "--out",
    "--resume", "--print-recipe",
)  # fmt: skip
_DECIDED_SETTINGS = {"data": ("texts", "digest"), "train": ("budget", "seed", "device")}


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
        amount = Amount.parse(text, "--budget", share=False)
        if amount.value <= 0:
            raise ConfigError(f"--budget is '{text}': it must be more than nothing")
        return cls(text, amount)

    @property
    def timed(self) -> bool:
        """Whether it is in time, which runs side by side would take from each other."""
        return self.amount.unit == "seconds"


@dataclass(frozen=True)
class Contender:
    """A recipe, and what is set otherwise.

    Attributes:
        recipe: Its name or file.
        options: Of `sharnn train`, as typed.
        about: One line for the results.
        long_recipe: The recipe of budgets from `LONG_SECONDS` on, where that is another.
        long_options: Options of these budgets, behind the others.
    """

    recipe: str
    options: str = ""
    about: str = ""
    long_recipe: str | None = None
    long_options: str = ""

    @classmethod
    def parse(cls, name: str, words: Sequence[str]) -> Contender:
        """Return the contender that a recipe and options behind it make.

        Raises:
            ConfigError: No recipe stands first, or an option is the comparison's to decide.
        """
        recipe, *options = words
        if recipe.startswith("-"):
            raise ConfigError(f"contender {name} begins with {recipe}: a recipe's name comes first")
        for word in options:
            if word.split("=", 1)[0] in _DECIDED:
                raise ConfigError(
                    f"contender {name} has {word}: the comparison decides that for all"
                )
        return cls(recipe, shlex.join(options))

    def arguments(self, budget: Budget) -> list[str]:
        """Return what `sharnn train` is told, but for what the comparison decides."""
        long = budget.timed and budget.amount.value >= LONG_SECONDS
        recipe = self.long_recipe if long and self.long_recipe else self.recipe
        options = f"{self.options} {self.long_options}" if long else self.options
        return ["--recipe", recipe, *shlex.split(options)]

    def settings(self, name: str, budget: Budget, text: str) -> dict[str, Any]:
        """Return what it is, every setting resolved by `sharnn train` itself.

        Raises:
            ConfigError: It refuses them.
        """
        arguments = [*self.arguments(budget), "--budget", budget.text, "--print-recipe"]
        result = subprocess.run(train_command(text, arguments), capture_output=True, text=True)
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ["no recipe"]
            raise ConfigError(f"contender {name}: {lines[-1].removeprefix('sharnn: error: ')}")
        settings = yaml.safe_load(result.stdout)
        if settings["data"]["texts"] != [text]:
            raise ConfigError(
                f"contender {name}: its text is the comparison's, name settings alone"
            )
        for section, decided in _DECIDED_SETTINGS.items():
            for setting in decided:
                del settings[section][setting]
        return settings


@dataclass(frozen=True)
class Outside:
    """A trainer from elsewhere: its command line in words, with places that are filled in.

    `{train}` and `{valid}` stand for files with the bytes of the splits, `{seconds}` for the budget,
    `{seed}` for the seed and `{out}` for an empty folder. It prints JSON lines with `seconds` and
    `bits_per_byte`, the last of which is its score.
    """

    words: tuple[str, ...]

    def settings(self, name: str, budget: Budget, text: str) -> dict[str, Any]:
        """Return what it is: its command line."""
        return {"command": shlex.join(self.words)}


AnyContender = Contender | Outside


def named_words(option: str, text: str) -> tuple[str, list[str]]:
    """Return the name and the words of NAME='WORD …', the value of an option.

    Raises:
        ConfigError: It has not that form.
    """
    name, _, line = text.partition("=")
    try:
        words = shlex.split(line)
    except ValueError as failure:
        raise ConfigError(
            f"{option} has '{line}', which is no command line: {failure}"
        ) from failure
    if not (name and words):
        raise ConfigError(f"{option} is '{text}': give NAME='…'")
    return name, words


@dataclass(frozen=True)
class Plan:
    """A run that a comparison asks for.

    Attributes:
        name: The contender's.
        contender: What trains.
        budget: How long.
        seed: Of its weights.
        key: All that makes its figures, as JSON values: runs of the same key need not be repeated.
    """

    name: str
    contender: AnyContender
    budget: Budget
    seed: int
    key: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name} · {self.budget.text} · seed {self.seed}"


def make_plans(
    contenders: Mapping[str, AnyContender],
    budgets: Sequence[Budget],
    seeds: Sequence[int],
    text: str,
    conditions: Mapping[str, Any],
) -> list[Plan]:
    """Return all runs: a budget after the other, seeds one after the other, contenders in turn.

    Args:
        contenders: By name.
        budgets: How long each trains.
        seeds: Of the weights.
        text: What they train on.
        conditions: What else makes the figures of a run, as JSON values: part of every plan's key.

    Raises:
        ConfigError: A contender has settings that do not exist or do not go together.
    """
    plans = []
    for budget in budgets:
        amount = {"value": budget.amount.value, "unit": budget.amount.unit}
        settings = {
            name: contender.settings(name, budget, text) for name, contender in contenders.items()
        }
        for seed in seeds:
            for name, contender in contenders.items():
                own = {"budget": amount, "seed": seed, "settings": settings[name]}
                plans.append(Plan(name, contender, budget, seed, {**conditions, **own}))
    return plans


def train_command(text: str, arguments: Sequence[str]) -> list[str]:
    """Return the command line of a training."""
    return [sys.executable, "-m", "sharnn", "train", text, *arguments]


def resume_command(run: Path) -> list[str]:
    """Return the command line that goes on with a training."""
    return [sys.executable, "-m", "sharnn", "train", "--resume", str(run)]
