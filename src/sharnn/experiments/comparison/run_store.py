"""The file of finished runs, by which a stopped comparison is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharnn.config import Recipe, to_dict
from sharnn.errors import DataError
from sharnn.experiments.comparison.contenders import Budget, Plan
from sharnn.files import atomic_file, read_json
from sharnn.recipe import RETIRED_SETTINGS

#: A run's figures, as JSON values.
Run = dict[str, Any]
#: The finished runs of a comparison by budget, then by contender.
Shown = dict[Budget, dict[str, list[Run]]]

#: Everything that determines a run's figures. Only runs of `sharnn compare` have `scale`, only runs
#: scored on a part of the valid split have `score_share`, and only experiments with conditions of their
#: own have `conditions`.
KEY_NAMES = (
    "text_digest", "budget", "seed", "threads", "device", "scale", "score_share", "conditions",
    "settings",
)  # fmt: skip


@dataclass
class Store:
    """A JSON file of runs, one on each line.

    Attributes:
        path: The file.
        facts: Other content of the file, before the runs.
        added: Number of runs written by this process.
    """

    path: Path
    facts: Mapping[str, Any]
    added: int = 0

    def runs(self) -> list[Run]:
        """Return all runs.

        Raises:
            DataError: The file is damaged or contains something else.
        """
        if not self.path.exists():
            return []
        content = read_json(self.path, DataError)
        try:
            runs = list(content["runs"])
            for run in runs:
                key_of(run)
        except (KeyError, TypeError, AttributeError) as failure:
            raise DataError(f"{self.path} holds no runs: move it out of the way") from failure
        return runs

    def add(self, figures: Run) -> None:
        """Write a run; it replaces one of the same key."""
        key = key_of(figures)
        runs = [run for run in self.runs() if key_of(run) != key]
        lines = ",\n".join(json.dumps(run, ensure_ascii=False) for run in [*runs, figures])
        begin = json.dumps(self.facts, ensure_ascii=False)[:-1]
        with atomic_file(self.path, DataError) as file:
            file.write(f'{begin}, "runs": [\n{lines}\n]}}\n'.encode())
        self.added += 1

    def find(self, plan: Plan) -> Run | None:
        """Return the finished run of a plan, with the plan's name and facts."""
        return self.find_all([plan])[0]

    def find_all(self, plans: Sequence[Plan]) -> list[Run | None]:
        """Return the finished run of each plan, None for a plan that has none; read the file once."""
        held = [(key_of(run), run) for run in self.runs()]
        return [_find(plan, held) for plan in plans]

    def shown(self, plans: Sequence[Plan]) -> Shown:
        """Return the finished runs of plans."""
        shown: Shown = {}
        for plan, run in zip(plans, self.find_all(plans), strict=True):
            if run is not None:
                shown.setdefault(plan.budget, {}).setdefault(plan.name, []).append(run)
        return shown


def _find(plan: Plan, held: Sequence[tuple[dict[str, Any], Run]]) -> Run | None:
    wanted = key_of(plan.key)
    found = next((run for key, run in held if key == wanted), None)
    return found and {**found, "contender": plan.name, **plan.facts}


def all_runs(shown: Shown) -> Iterator[Run]:
    """Yield the runs of all budgets and contenders."""
    for of_budget in shown.values():
        for runs in of_budget.values():
            yield from runs


def key_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determines the figures of a run, given a plan's key or a finished run."""
    plain = {name: run.get(name) for name in KEY_NAMES if name != "settings"}
    return {**plain, "settings": _chosen_settings(run["settings"])}


def _chosen_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those at their default.

    So a run is still found after the package has got a new setting.
    """
    defaults = to_dict(Recipe())
    return {
        section: values
        if isinstance(values, str)
        else {
            key: value
            for key, value in values.items()
            if (key, value) not in defaults.get(section, {}).items()
            and f"{section}.{key}" not in RETIRED_SETTINGS
        }
        for section, values in settings.items()
    }
