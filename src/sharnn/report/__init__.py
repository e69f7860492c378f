"""Learning curves as pictures and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharnn.errors import DataError
from sharnn.files import atomic_file
from sharnn.report.curves import draw_curves, write_png
from sharnn.report.page import render_page, summary_rows
from sharnn.report.runs import RunRecord, read_run, tell_apart


@dataclass(frozen=True)
class ReportPaths:
    """Where a report lies.

    Attributes:
        html: The page.
        png: The curves, which the page also holds.
    """

    html: Path
    png: Path


def write_report(runs: list[RunRecord], out: Path | None = None) -> ReportPaths:
    """Draw runs and write picture and page.

    Args:
        runs: One or more.
        out: The folder; None puts the report of one run into its folder, of several here.

    Raises:
        DataError: A file cannot be written.
    """
    tell_apart(runs)
    single = len(runs) == 1
    folder = out or (runs[0].folder if single else Path())
    paths = ReportPaths(
        folder / "report.html", folder / ("curves.png" if single else "compare.png")
    )
    png = write_png(draw_curves(runs), paths.png)
    with atomic_file(paths.html, DataError) as file:
        file.write(render_page(runs, png).encode())
    return paths


__all__: Sequence[str] = [
    "ReportPaths",
    "RunRecord",
    "draw_curves",
    "read_run",
    "summary_rows",
    "write_png",
    "write_report",
]
