"""Pictures of the tokenization attack: scores by tokenization, and their breakdown.

Each training is given by its figures as written by `sharnn.experiments.attack_run`: `architecture`,
`tokenization`, `matching`, `seed`, `bits_per_byte`, `by_place`, `by_class`, `within_words`, `perturbed`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharnn.report.curves import COLOURS, dress

Result = Mapping[str, Any]
_MATCHED = {"bytes": "equal bytes read", "compute": "equal compute"}
_WAYS = {
    "summed": "all segmentations, summed",
    "best": "best segmentation",
    "forced": "the tokenizer's segmentation",
    "withheld": "… earlier tokens withheld",
}


def draw_scores(results: Sequence[Result]) -> Figure:
    """Draw bits per byte of each architecture by tokenization, with the standard deviation over seeds."""
    matchings = distinct(results, "matching")
    figure = Figure(figsize=(6.2 * len(matchings), 4.8), dpi=110, layout="constrained")
    all_axes = figure.subplots(1, len(matchings), squeeze=False, sharey=True)[0]
    names = distinct(results, "tokenization")
    for axes, matching in zip(all_axes, matchings, strict=True):
        for colour, architecture, chosen in _by_architecture(results, matching=matching):
            points = [(k, _values(chosen, name, _bits)) for k, name in enumerate(names)]
            _draw_points(axes, points, architecture, colour)
        _dress(axes, f"With {_MATCHED[matching]}", "", "bits per byte")
        _name_ticks(axes, names)
    all_axes[0].legend(fontsize=9, frameon=False)
    return figure


def draw_ways(results: Sequence[Result]) -> Figure:
    """Draw nats per word in the four kinds of score, for each architecture."""
    architectures = distinct(results, "architecture")
    figure = Figure(figsize=(11, 2.5 * len(architectures)), dpi=110, layout="constrained")
    all_axes = figure.subplots(len(architectures), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    names = distinct(results, "tokenization")
    width = 0.8 / len(_WAYS)
    for axes, (_, architecture, chosen) in zip(all_axes, _by_architecture(results), strict=True):
        for index, (way, label) in enumerate(_WAYS.items()):
            means = [_values(chosen, name, _way(way)) for name in names]
            places = [k + (index - 1.5) * width for k in range(len(names))]
            axes.bar(
                places, [_mean(values) for values in means], width, color=COLOURS[index],
                yerr=[_spread(values) for values in means], label=label, error_kw={"linewidth": 1},
            )  # fmt: skip
        _dress(axes, architecture, "", "nats per word")
        _name_ticks(axes, names)
    all_axes[0].legend(fontsize=9, frameon=False, ncols=4, loc="upper left")
    all_axes[0].margins(y=0.3)
    return figure


def draw_groups(results: Sequence[Result], part: str, title: str, y_label: str) -> Figure:
    """Draw means over groups of words or tokens, with a panel for each tokenization.

    Args:
        results: Results of one matching.
        part: `by_place` or `by_class`.
        title: Title of the groups.
        y_label: Label of the means.
    """
    names = distinct(results, "tokenization")
    figure, panels = _panels(names)
    for axes, name in zip(panels, names, strict=True):
        for colour, architecture, chosen in _by_architecture(results, tokenization=name):
            groups = [group["name"] for group in chosen[0][part]]
            points = [(k, _group_means(chosen, part, group)) for k, group in enumerate(groups)]
            _draw_points(axes, points, architecture, colour)
            _name_ticks(axes, groups)
        _dress(axes, f"{title}: {name}", "", y_label)
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def draw_perturbed(results: Sequence[Result]) -> Figure | None:
    """Draw the increase in bits per byte by the share of merges left out; None if there are no data."""
    chosen = [result for result in results if result["perturbed"]]
    names = distinct(chosen, "tokenization")
    if not names:
        return None
    figure, panels = _panels(names)
    for axes, name in zip(panels, names, strict=True):
        for colour, architecture, runs in _by_architecture(chosen, tokenization=name):
            rates = [0.0, *(entry["dropout"] for entry in runs[0]["perturbed"])]
            points = [(rate, [_rise(run, rate) for run in runs]) for rate in rates]
            _draw_points(axes, points, architecture, colour)
        _dress(axes, name, "share of merges left out", "increase in bits per byte")
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def _panels(names: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each name, at most three in a row."""
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.3 * rows), dpi=110, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flatten())
    for empty in panels[len(names) :]:
        empty.set_visible(False)
    return figure, panels[: len(names)]


def distinct(results: Iterable[Result], key: str) -> list[str]:
    """Return the distinct values of a key, in order of first occurrence."""
    return list(dict.fromkeys(result[key] for result in results))


def _by_architecture(
    results: Sequence[Result], **wanted: str
) -> Iterable[tuple[str, str, list[Result]]]:
    """Yield a colour, an architecture and its results that have the wanted values."""
    for index, architecture in enumerate(distinct(results, "architecture")):
        chosen = [
            result
            for result in results
            if result["architecture"] == architecture
            and all(result[key] == value for key, value in wanted.items())
        ]
        if chosen:
            yield COLOURS[index % len(COLOURS)], architecture, chosen


def _values(
    results: Sequence[Result], tokenization: str, value: Callable[[Result], float]
) -> list[float]:
    return [value(result) for result in results if result["tokenization"] == tokenization]


def _bits(result: Result) -> float:
    return result["bits_per_byte"]


def _way(name: str) -> Callable[[Result], float]:
    return lambda result: result["within_words"][name]["mean"]


def _group_means(results: Sequence[Result], part: str, name: str) -> list[float]:
    """Return a group's mean in every result in which the group is not empty."""
    groups = (group for result in results for group in result[part] if group["name"] == name)
    return [group["mean"] for group in groups if group["count"]]


def _rise(result: Result, rate: float) -> float:
    scores = {entry["dropout"]: entry["bits_per_byte"] for entry in result["perturbed"]}
    return scores.get(rate, result["bits_per_byte"]) - result["bits_per_byte"]


def _mean(values: Sequence[float]) -> float:
    return statistics.mean(values) if values else 0.0


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _draw_points(
    axes: Axes, points: Sequence[tuple[float, Sequence[float]]], label: str, colour: str
) -> None:
    there = [(x, values) for x, values in points if values]
    axes.errorbar(
        [x for x, _ in there],
        [_mean(values) for _, values in there],
        yerr=[_spread(values) for _, values in there],
        label=label, color=colour, marker="o", markersize=4, linewidth=1.4, capsize=2.5,
    )  # fmt: skip


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)


def _dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    dress(axes, title, x_label, y_label, tick_size=8)
