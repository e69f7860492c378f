"""A picture that compares contenders: their learning curves and scores, with the spread over seeds.

Each run is given by its figures: `valid_curve` and `train_curve` with points `[tokens, seconds, bits per
byte]` (tokens None if unknown), `seconds`, `tokens_seen`, and its score `bits_per_byte`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter, NullLocator

from sharnn.report.curves import COLOURS, dress
from sharnn.report.tables import mean_and_spread

Run = Mapping[str, Any]
Axis = Literal["tokens", "seconds"]

_PLACE: dict[Axis, int] = {"tokens": 0, "seconds": 1}
_BITS = 2
#: Points at which the mean of several curves is drawn.
_GRID_POINTS = 240


def draw_comparison(
    contenders: Mapping[str, Sequence[Sequence[Run]]], title: str, axis: Axis
) -> Figure:
    """Draw mean curves with the range over seeds, and scores with their standard deviation.

    Args:
        contenders: By name, for each budget the runs of all seeds.
        title: Title of the picture.
        axis: Quantity on the horizontal axis.
    """
    figure = Figure(figsize=(11, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    runs = [run for by_budget in contenders.values() for seeds in by_budget for run in seeds]
    best_first = sorted(contenders, key=lambda name: _score(contenders[name][-1])[0])
    handles = {
        name: _draw_contender(axes, name, by_budget, axis, COLOURS[index % len(COLOURS)])
        for index, (name, by_budget) in enumerate(contenders.items())
    }
    _frame(axes, runs, axis)
    dress(axes, title, f"{axis} of training", "bits per byte")
    names: list[Any] = [handles[name] for name in best_first]
    style: dict[str, Any] = {
        "frameon": False, "fontsize": 9, "alignment": "left",
        "title_fontproperties": {"weight": "bold", "size": 9},
    }  # fmt: skip
    figure.legend(handles=names, title="valid, best first", loc="outside right upper", **style)
    figure.legend(handles=_kinds_of_line(runs), title="lines", loc="outside right lower", **style)
    return figure


def _score(runs: Sequence[Run]) -> tuple[float, float | None]:
    return mean_and_spread([run["bits_per_byte"] for run in runs])


def _draw_contender(
    axes: Axes, name: str, by_budget: Sequence[Sequence[Run]], axis: Axis, colour: str
) -> ErrorbarContainer:
    for runs in by_budget:
        for curve, style, width in (("train_curve", ":", 0.9), ("valid_curve", "-", 1.4)):
            x, curves = _on_one_grid([run[curve] for run in runs], axis)
            if len(x):
                axes.plot(x, curves.mean(axis=0), style, color=colour, linewidth=width, alpha=0.8)
            if len(curves) > 1 and curve == "valid_curve":
                axes.fill_between(
                    x, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.15, linewidth=0
                )
    scores = [_score(runs) for runs in by_budget]
    bits, spread = scores[-1]
    return axes.errorbar(
        [statistics.mean(_end(run, axis) for run in runs) for runs in by_budget],
        [mean for mean, _ in scores],
        [one or math.nan for _, one in scores],
        color=colour, marker="o", markersize=7, markeredgecolor="white", linewidth=2.0,
        elinewidth=1.5, capsize=4, zorder=5,
        label=f"{name}  {bits:.3f}" + ("" if spread is None else f" ± {spread:.3f}"),
    )  # fmt: skip


def _placed(curve: Sequence[Sequence[float]], axis: Axis) -> list[Sequence[float]]:
    """Return the points that can be drawn on a logarithmic axis.

    The initial score of a fine-tuned model is dropped: it is at 0 tokens and seconds.
    """
    return [point for point in curve if point[_PLACE[axis]] > 0]


def _on_one_grid(
    curves: Sequence[Sequence[Sequence[float]]], axis: Axis
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return positions `[points]` and the curves of all seeds at these, `[seeds, points]`.

    A single curve keeps its own points; several are interpolated over the range that all of them cover.
    """
    place = _PLACE[axis]
    placed = [_placed(curve, axis) for curve in curves]
    points = [np.array([[p[place], p[_BITS]] for p in curve], float) for curve in placed if curve]
    if not points:
        return np.empty(0), np.empty((0, 0))
    if len(points) == 1:
        return points[0][:, 0], points[0][None, :, 1]
    start = max(curve[0, 0] for curve in points)
    stop = max(min(curve[-1, 0] for curve in points), start)
    grid = np.geomspace(start, stop, _GRID_POINTS)
    return grid, np.stack([np.interp(grid, curve[:, 0], curve[:, 1]) for curve in points])


def _end(run: Run, axis: Axis) -> float:
    return run["seconds"] if axis == "seconds" else run["tokens_seen"]


def _frame(axes: Axes, runs: Sequence[Run], axis: Axis) -> None:
    """Scale the axes to all validations and scores, without the steep beginning of training curves."""
    points = [point for run in runs for point in _placed(run["valid_curve"], axis)]
    ends = [_end(run, axis) for run in runs]
    bits = [run["bits_per_byte"] for run in runs] + [point[_BITS] for point in points]
    low = min(bits + [point[_BITS] for run in runs for point in run["train_curve"]])
    margin = 0.06 * (max(bits) - low) + 0.01
    axes.set_ylim(low - margin, max(bits) + margin)
    axes.set_xscale("log")
    axes.set_xlim(0.8 * min([point[_PLACE[axis]] for point in points] + ends), 1.15 * max(ends))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    seconds = FuncFormatter(lambda value, _: f"{value:,g}")
    axes.xaxis.set_major_formatter(seconds if axis == "seconds" else EngFormatter(sep=""))


def _kinds_of_line(runs: Sequence[Run]) -> list[Any]:
    """Return the legend's entries for kinds of lines."""
    grey = "0.35"
    seeds = Patch(color=grey, alpha=0.2, linewidth=0, label="lowest to highest seed")
    return [
        Line2D([], [], color=grey, linewidth=2, marker="o", label="valid, strict: mean ± sd"),
        Line2D([], [], color=grey, linewidth=1.4, label="valid, while training"),
        *([seeds] if len({run["seed"] for run in runs}) > 1 else []),
        Line2D([], [], color=grey, linewidth=0.9, linestyle=":", label="training, smoothed"),
    ]
