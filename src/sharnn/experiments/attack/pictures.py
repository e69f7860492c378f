"""Pictures of the tokenization attack: scores by tokenization, and their breakdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharnn.experiments.comparison.run_store import Run
from sharnn.report.curves import COLOURS, dress
from sharnn.report.tables import mean_and_spread

_MATCHED = {"bytes": "equal bytes read", "compute": "equal compute"}
_WAYS = {
    "summed": "all segmentations, summed",
    "best": "best segmentation",
    "forced": "the tokenizer's segmentation",
    "withheld": "… earlier tokens withheld",
}


def distinct(runs: Sequence[Run], key: str) -> list[str]:
    """Return the distinct values of a key, in order of first occurrence."""
    return list(dict.fromkeys(run[key] for run in runs))


def having(runs: Sequence[Run], **wanted: str) -> list[Run]:
    """Return the runs that have the wanted values."""
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def draw_scores(runs: Sequence[Run]) -> Figure:
    """Draw bits per byte of each architecture by tokenization, with the standard deviation over seeds."""
    matchings, names = distinct(runs, "matching"), distinct(runs, "tokenization")
    figure = Figure(figsize=(6.2 * len(matchings), 4.8), dpi=110, layout="constrained")
    all_axes = figure.subplots(1, len(matchings), squeeze=False, sharey=True)[0]
    for axes, matching in zip(all_axes, matchings, strict=True):
        for colour, architecture, chosen in _by_architecture(having(runs, matching=matching)):
            points = [
                (k, [run["bits_per_byte"] for run in having(chosen, tokenization=name)])
                for k, name in enumerate(names)
            ]
            _draw_points(axes, points, architecture, colour)
        _dress(axes, f"With {_MATCHED[matching]}", "", "bits per byte")
        _name_ticks(axes, names)
    all_axes[0].legend(fontsize=9, frameon=False)
    return figure


def draw_ways(runs: Sequence[Run]) -> Figure:
    """Draw nats per word in the four kinds of score, for each architecture."""
    architectures, names = distinct(runs, "architecture"), distinct(runs, "tokenization")
    figure = Figure(figsize=(11, 2.5 * len(architectures)), dpi=110, layout="constrained")
    all_axes = figure.subplots(len(architectures), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    width = 0.8 / len(_WAYS)
    for axes, (_, architecture, chosen) in zip(all_axes, _by_architecture(runs), strict=True):
        for index, (way, label) in enumerate(_WAYS.items()):
            bars = [
                mean_and_spread([run["within_words"][way]["mean"] for run in of_name])
                for of_name in (having(chosen, tokenization=name) for name in names)
            ]
            axes.bar(
                [k + (index - 1.5) * width for k in range(len(names))],
                [mean for mean, _ in bars], width, color=COLOURS[index],
                yerr=[spread or 0.0 for _, spread in bars], label=label,
                error_kw={"linewidth": 1},
            )  # fmt: skip
        _dress(axes, architecture, "", "nats per word")
        _name_ticks(axes, names)
    all_axes[0].legend(fontsize=9, frameon=False, ncols=4, loc="upper left")
    all_axes[0].margins(y=0.3)
    return figure


def draw_groups(runs: Sequence[Run], part: str, title: str, y_label: str) -> Figure:
    """Draw means over groups of words or tokens, with a panel for each tokenization.

    Args:
        runs: Runs of one matching.
        part: `by_place` or `by_class`.
        title: Title of the groups.
        y_label: Label of the means.
    """

    def points(chosen: Sequence[Run]) -> list[tuple[float, list[float]]]:
        by_group = zip(*(run[part] for run in chosen), strict=True)
        return [(k, [g["mean"] for g in groups if g["count"]]) for k, groups in enumerate(by_group)]

    figure = _draw_panels(runs, points, f"{title}: ", "", y_label)
    for axes in figure.axes:
        _name_ticks(axes, [group["name"] for group in runs[0][part]])
    return figure


def draw_perturbed(runs: Sequence[Run]) -> Figure | None:
    """Draw the increase in bits per byte by the share of merges left out; None if there are no data."""

    def points(chosen: Sequence[Run]) -> list[tuple[float, list[float]]]:
        by_rate = zip(*(run["perturbed"] for run in chosen), strict=True)
        rises = [
            (entries[0]["dropout"], [
                entry["bits_per_byte"] - run["bits_per_byte"]
                for entry, run in zip(entries, chosen, strict=True)
            ])
            for entries in by_rate
        ]  # fmt: skip
        return [(0.0, [0.0]), *rises]

    chosen = [run for run in runs if run["perturbed"]]
    labels = ("", "share of merges left out", "increase in bits per byte")
    return _draw_panels(chosen, points, *labels) if chosen else None


def _draw_panels(
    runs: Sequence[Run],
    points: Callable[[Sequence[Run]], list[tuple[float, list[float]]]],
    title: str,
    x_label: str,
    y_label: str,
) -> Figure:
    """Draw a panel for each tokenization, at most three in a row, with a line for each architecture."""
    names = distinct(runs, "tokenization")
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.3 * rows), dpi=110, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flatten())
    for empty in panels[len(names) :]:
        empty.remove()
    for axes, name in zip(panels, names, strict=False):
        for colour, architecture, chosen in _by_architecture(having(runs, tokenization=name)):
            _draw_points(axes, points(chosen), architecture, colour)
        _dress(axes, f"{title}{name}", x_label, y_label)
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def _by_architecture(runs: Sequence[Run]) -> Iterator[tuple[str, str, list[Run]]]:
    """Yield a colour, an architecture and its runs."""
    for index, architecture in enumerate(distinct(runs, "architecture")):
        yield COLOURS[index % len(COLOURS)], architecture, having(runs, architecture=architecture)


def _draw_points(
    axes: Axes, points: Sequence[tuple[float, Sequence[float]]], label: str, colour: str
) -> None:
    there = [(x, *mean_and_spread(values)) for x, values in points if values]
    axes.errorbar(
        [x for x, _, _ in there],
        [mean for _, mean, _ in there],
        yerr=[spread or 0.0 for _, _, spread in there],
        label=label, color=colour, marker="o", markersize=4, linewidth=1.4, capsize=2.5,
    )  # fmt: skip


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)


def _dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    dress(axes, title, x_label, y_label, tick_size=8)
