"""Plans and finished runs that no training was needed for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sharnn.config import Recipe, TrainConfig, to_dict
from sharnn.experiments.comparison.contenders import Budget, Plan


def make_plan(name: str = "a", budget: str = "10steps", seed: int = 0, **setting: Any) -> Plan:
    """Return a plan; settings of `model` may be given."""
    settings = to_dict(Recipe())
    settings["model"].update(setting)
    parsed = Budget.parse(budget)
    key = {
        "text_digest": "1" * 64,
        "budget": {"value": parsed.amount.value, "unit": parsed.amount.unit},
        "seed": seed,
        "threads": 1,
        "device": "cpu",
        "settings": settings,
    }
    recipe = replace(Recipe(), train=TrainConfig(budget=budget, seed=seed))
    return Plan(name, parsed, recipe, key)


def make_run(plan: Plan, bits: float = 3.0, tokens: int = 1_000) -> dict[str, Any]:
    """Return figures of a plan, as a runner would measure them."""
    curve = [[tokens * n // 10, n / 2, bits + 1 - n / 10] for n in range(1, 11)]
    return {
        "contender": plan.name, **plan.key, "text": "zen", "train_bytes": 10_000,
        "valid_bytes": 500, "command": "x", "date": "2026-01-01T00:00:00Z", "torch": "2.13",
        "machine": "this", "parameters": 1_234, "tokens_seen": tokens, "seconds": 5.0,
        "tokens_per_second": 200.0, "bits_per_byte": bits, "valid_curve": curve,
        "train_curve": curve,
    }  # fmt: skip
