"""The report as one self-contained page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from sharnn.report.runs import RunRecord

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --line: #d9dce0; --soft: #5d6570; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #15171a; --line: #363b42; --soft: #9aa3ad; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
p.sub { color: var(--soft); margin-top: 0; }
img { width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
.scroll { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
.number { text-align: right; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
pre { overflow-x: auto; font-size: .85rem; padding: .8rem; border: 1px solid var(--line);
  border-radius: 6px; }
"""


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


def render_page(runs: Sequence[RunRecord], png: bytes) -> str:
    """Return the page: curves, a table, and the recipe of every run in collapsed sections."""
    names = ", ".join(run.name for run in runs)
    rows = "\n".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in summary_rows(runs)
    )
    recipes = "\n".join(folded(f"Recipe of {run.name}", run.recipe) for run in runs if run.recipe)
    return whole_page(
        f"sharnn report: {names}",
        f"""<h1>Training report</h1>
<p class="sub">{escape(names)}</p>
{picture(f"Learning curves of {names}", png)}
<div class="scroll"><table>
{rows}
</table></div>
{recipes}""",
    )


def picture(alt: str, png: bytes) -> str:
    """Return an image element that contains the picture."""
    content = base64.b64encode(png).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{content}">'


def folded(summary: str, text: str) -> str:
    """Return a collapsed section with a summary line and a text."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def whole_page(title: str, body: str) -> str:
    """Return a self-contained page."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


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
