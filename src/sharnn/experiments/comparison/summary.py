"""Summaries of finished runs: table cells over seeds, the plot's data, and how they were measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from sharnn.experiments.comparison.run_store import Run, Shown, all_runs
from sharnn.report.comparison import Axis
from sharnn.report.tables import mean_cell

_NOTHING = "–"


def score_cell(runs: Sequence[Run], key: str = "bits_per_byte") -> str:
    """Return mean and standard deviation over seeds; a single seed has a dash as deviation."""
    return mean_cell([run[key] for run in runs], 4, single=f" ± {_NOTHING}")


def number_cell(
    runs: Sequence[Run], key: str, average: Callable[[Sequence[float]], float] = statistics.mean
) -> str:
    """Return the average of a figure over seeds; a dash if no run has it."""
    values = [run[key] for run in runs if run.get(key) is not None]
    return f"{average(values):,.0f}" if values else _NOTHING


def count_cell(runs: Sequence[Run], key: str) -> str:
    """Return the largest count over seeds in thousands or millions."""
    count = max(run[key] for run in runs)
    return f"{count / 1e6:.2f}M" if count >= 1e6 else f"{count / 1e3:.1f}k"


def measured_when(runs: Sequence[Run]) -> str:
    """Return when and how runs were measured; they may come from several commands."""
    days = sorted({run["date"][:10] for run in runs})
    versions = sorted({run["torch"] for run in runs})
    threads, device = runs[0]["threads"], runs[0]["device"]
    return (
        f"Measured {' to '.join(dict.fromkeys((days[0], days[-1])))}, torch {', '.join(versions)}, "
        f"{device}, {threads} {'thread' if threads == 1 else 'threads'} a run."
    )


def picture_of(shown: Shown) -> tuple[Mapping[str, Sequence[Sequence[Run]]], Axis]:
    """Return the arguments of `report.draw_comparison`: runs by contender and budget, and the axis."""
    names = dict.fromkeys(name for of_budget in shown.values() for name in of_budget)
    by_name = {
        name: [of_budget[name] for of_budget in shown.values() if name in of_budget]
        for name in names
    }
    return by_name, "seconds" if next(iter(shown)).timed else "tokens"


def text_of(shown: Shown) -> str:
    """Return the name of the text that all runs were trained on."""
    return next(all_runs(shown))["text"]
