"""Reports on training runs and attention, as pictures and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharnn.errors import DataError
from sharnn.files import atomic_file, write_json
from sharnn.report.attention import attention_rows, draw_attention, visible_pieces
from sharnn.report.attention_page import render_attention_page
from sharnn.report.comparison import draw_comparison
from sharnn.report.curves import draw_curves, write_png
from sharnn.report.run_page import render_run_page, summary_rows
from sharnn.report.runs import RunRecord, read_run, tell_apart
from sharnn.report.tables import Table

if TYPE_CHECKING:
    from sharnn.evaluate import AttentionReading
    from sharnn.text import Tokenizer


@dataclass(frozen=True)
class ReportPaths:
    """Paths of a report's files.

    Attributes:
        html: The page.
        png: The learning curves, which the page contains too.
    """

    html: Path
    png: Path


def write_report(runs: list[RunRecord], out: Path | None = None) -> ReportPaths:
    """Draw the learning curves of runs and write the picture and the page.

    Args:
        runs: One or more runs.
        out: The folder; None is the run's folder for one run, and the current folder for several.

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
        file.write(render_run_page(runs, png).encode())
    return paths


@dataclass(frozen=True)
class AttentionPaths:
    """Paths of an attention report's files.

    Attributes:
        html: The page.
        json: The figures.
        pngs: A picture of each head, which the page contains too.
    """

    html: Path
    json: Path
    pngs: list[Path]


def write_attention(
    reading: AttentionReading, tokenizer: Tokenizer, title: str, facts: dict[str, Any], out: Path
) -> AttentionPaths:
    """Write the pictures, the page and the figures of an attention reading.

    Args:
        reading: The attention reading.
        tokenizer: The model's tokenizer.
        title: Title of the report: the model and the text.
        facts: Facts that precede the figures in the JSON file.
        out: The folder.

    Raises:
        DataError: A file cannot be written.
    """
    tokens = [*reading.before.tolist(), *reading.tokens.tolist()]
    pieces = visible_pieces(tokenizer.token_bytes(token) for token in tokens)
    before, shown = pieces[: len(reading.before)], pieces[len(reading.before) :]
    single = len(reading.heads) == 1
    paths = AttentionPaths(
        out / "attention.html",
        out / "attention.json",
        [out / f"attention{'' if single else f'-{h.layer}'}.png" for h in reading.heads],
    )
    pngs = [
        write_png(draw_attention(reading, head, shown, f"{title} · block {head.layer}"), path)
        for head, path in zip(reading.heads, paths.pngs, strict=True)
    ]
    earlier = {out / "attention.png", *out.glob("attention-[0-9]*.png")}
    for stale in earlier - set(
        paths.pngs
    ):  # pictures of an earlier report in this folder, on a model with other heads
        stale.unlink(missing_ok=True)
    write_json(paths.json, {**facts, **reading.to_dict()}, DataError)
    with atomic_file(paths.html, DataError) as file:
        file.write(render_attention_page(reading, shown, before, title, pngs).encode())
    return paths


__all__: Sequence[str] = [
    "ReportPaths",
    "RunRecord",
    "Table",
    "attention_rows",
    "draw_comparison",
    "draw_curves",
    "read_run",
    "summary_rows",
    "visible_pieces",
    "write_attention",
    "write_png",
    "write_report",
]
