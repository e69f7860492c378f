"""The page of a report on training runs."""

from __future__ import annotations

from collections.abc import Sequence

from sharnn.report.page import facts_table, folded, heading, picture, whole_page
from sharnn.report.runs import RunRecord


def summary_rows(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the rows of a report's table: the name of a fact, and its value for each run."""
    return [
        ("run", [run.name for run in runs]),
        ("corpus", [str(run.facts.get("corpus", "?")) for run in runs]),
        ("parameters", [_count(run.facts.get("num_parameters")) for run in runs]),
        ("budget", [f"{run.facts.get('budget', '?')}, {run.end or 'unfinished'}" for run in runs]),
        ("best valid bits per byte", [_best(run) for run in runs]),
        ("train bits per byte, smoothed", [_number(run.last.get("smooth")) for run in runs]),
        ("steps", [_count(run.last["step"]) for run in runs]),
        ("skipped steps", [_count(run.last.get("skipped_steps", 0)) for run in runs]),
        ("tokens seen", [_count(run.last["tokens_seen"]) for run in runs]),
        ("seconds", [f"{run.last['seconds']:,.0f}" for run in runs]),
        ("tokens per second", [_speed(run) for run in runs]),
        ("device, dtype", [_device(run) for run in runs]),
        ("machine", [str(run.facts.get("machine", "?")) for run in runs]),
        ("started", [str(run.facts.get("date", "?")) for run in runs]),
        ("versions", [_versions(run) for run in runs]),
    ]


def render_run_page(runs: Sequence[RunRecord], png: bytes) -> str:
    """Return the page: curves, a table, and the recipe of every run in collapsed sections."""
    names = ", ".join(run.name for run in runs)
    parts = [
        heading("Training report", names),
        picture(f"Learning curves of {names}", png),
        facts_table(summary_rows(runs)),
        *(folded(f"Recipe of {run.name}", run.recipe) for run in runs if run.recipe),
    ]
    return whole_page(f"sharnn report: {names}", "\n".join(parts))


def _count(value: float | None) -> str:
    return "?" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"


def _best(run: RunRecord) -> str:
    if run.best is None:
        return "none yet"
    tokens, seconds, bits = run.best
    return f"{bits:.4f} after {tokens / 1e6:,.2f}M tokens, {seconds:,.0f} s"


def _speed(run: RunRecord) -> str:
    seconds = run.last["seconds"]
    return f"{run.last['tokens_seen'] / seconds:,.0f}" if seconds else "?"


def _device(run: RunRecord) -> str:
    return f"{run.facts.get('device', '?')}, {run.facts.get('dtype', '?')}"


def _versions(run: RunRecord) -> str:
    return f"sharnn {run.facts.get('version', '?')}, torch {run.facts.get('torch', '?')}"
