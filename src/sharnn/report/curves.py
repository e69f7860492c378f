"""Learning curves as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sharnn.errors import DataError
from sharnn.files import atomic_file
from sharnn.report.runs import RunRecord

#: Okabe and Ito's palette, distinguishable with all kinds of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
_TOKENS, _SECONDS, _VALUE = 0, 1, 2


def draw_curves(runs: Sequence[RunRecord]) -> Figure:
    """Draw bits per byte against tokens and time, learning rate, gradient norm and speed."""
    figure = Figure(figsize=(12, 10), dpi=110, layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=[1.25, 1, 1])
    by_tokens, by_time = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    rate, norm = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    speed = figure.add_subplot(grid[2, :])
    scale, unit = _time_unit(runs)
    for index, run in enumerate(runs):
        colour = COLOURS[index % len(COLOURS)]
        _draw_bits(by_tokens, run, _TOKENS, 1.0, colour)
        _draw_bits(by_time, run, _SECONDS, scale, colour)
        for axes, name in ((rate, "lr"), (norm, "grad_norm"), (speed, "tokens_per_second")):
            curve = run.curves[name]
            axes.plot(curve.column(_TOKENS), curve.column(_VALUE), color=colour, linewidth=1.2)
    _dress(by_tokens, "Bits per byte against tokens", "tokens seen", "bits per byte")
    _dress(by_time, "Bits per byte against time", f"training time ({unit})", "bits per byte")
    _dress(rate, "Learning rate", "tokens seen", "")
    _dress(norm, "Gradient norm, before clipping", "tokens seen", "")
    _dress(speed, "Speed", "tokens seen", "tokens per second")
    for axes in (by_tokens, rate, norm, speed):
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    speed.set_ylim(bottom=0)
    _frame_bits((by_tokens, by_time), runs)
    by_tokens.legend(fontsize=9, frameon=False, loc="upper right")
    return figure


def write_png(figure: Figure, path: Path) -> bytes:
    """Write a figure as PNG atomically; return the file's content.

    Raises:
        DataError: The file cannot be written.
    """
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    with atomic_file(path, DataError) as file:
        file.write(buffer.getvalue())
    return buffer.getvalue()


def _draw_bits(axes: Axes, run: RunRecord, x: int, scale: float, colour: str) -> None:
    raw, smooth = run.curves["bits_per_byte"], run.curves["smooth"]
    xs = [value / scale for value in raw.column(x)]
    axes.plot(xs, raw.column(_VALUE), color=colour, linewidth=0.6, alpha=0.25)
    axes.plot(
        [value / scale for value in smooth.column(x)],
        smooth.column(_VALUE),
        color=colour,
        linewidth=1.4,
        label=f"{run.name}: train, smoothed",
    )
    if run.valid and run.best is not None:
        axes.plot(
            [point[x] / scale for point in run.valid],
            [point[_VALUE] for point in run.valid],
            color=colour,
            linewidth=1.0,
            linestyle="--",
            marker="o",
            markersize=3.5,
            label=f"{run.name}: valid, best {run.best[_VALUE]:.3f}",
        )
        axes.plot(run.best[x] / scale, run.best[_VALUE], "*", color=colour, markersize=12)


def _frame_bits(all_axes: Sequence[Axes], runs: Sequence[RunRecord]) -> None:
    """Limit the axes to the range of scores, without the first eighth of the training curves."""
    values: list[float] = []
    for run in runs:
        smooth = run.curves["smooth"].column(_VALUE)
        values.extend(smooth[len(smooth) // 8 :])
        values.extend(point[_VALUE] for point in run.valid)
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) + 0.02
    for axes in all_axes:
        axes.set_ylim(low - margin, high + 3 * margin)


def _time_unit(runs: Sequence[RunRecord]) -> tuple[float, str]:
    longest = max(run.last["seconds"] for run in runs)
    if longest < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if longest < 3 * 3600 else (3600.0, "hours")


def dress(axes: Axes, title: str, x_label: str, y_label: str, tick_size: int = 9) -> None:
    """Give axes their title, labels and grid."""
    axes.set_title(title, loc="left", fontsize=tick_size + 2, fontweight="bold")
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=tick_size)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    dress(axes, title, x_label, y_label)
    if not axes.lines:
        axes.text(0.5, 0.5, "no finite value", ha="center", va="center", transform=axes.transAxes)
