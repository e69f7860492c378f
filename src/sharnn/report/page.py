"""The shell that every page shares: its document, its CSS, and the elements that recur.

A page is self-contained: it loads nothing, so that it can be mailed or put on any server.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --line: #d9dce0; --soft: #5d6570;
  --glow: 230 120 0; --card: #f7f8f9; --mark: #0072B2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #15171a; --line: #363b42; --soft: #9aa3ad; --glow: 200 100 0;
    --card: #1d2024; --mark: #56B4E9; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
p.sub { color: var(--soft); margin-top: 0; max-width: 52rem; }
img { width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px;
  margin: .5rem 0; }
.scroll { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
.number { text-align: right; }
.soft { color: var(--soft); }
details { margin: .6rem 0; }
summary { cursor: pointer; }
pre { overflow-x: auto; font-size: .85rem; padding: .8rem; border: 1px solid var(--line);
  border-radius: 6px; }
"""


def whole_page(title: str, body: str, style: str = "") -> str:
    """Return a self-contained page.

    Args:
        title: Title of the window, as text.
        body: The content, as HTML.
        style: CSS of this page alone, after the CSS of all pages.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def heading(title: str, subtitle: str) -> str:
    """Return the title of a page and the line below it; both are text."""
    return f'<h1>{escape(title)}</h1>\n<p class="sub">{escape(subtitle)}</p>'


def facts_table(rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a table with a fact in each row: its name, and its value in every column."""
    lines = "\n".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f'<div class="scroll"><table>\n{lines}\n</table></div>'


def picture(alt: str, png: bytes) -> str:
    """Return an image element that contains the picture."""
    content = base64.b64encode(png).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{content}">'


def folded(summary: str, text: str) -> str:
    """Return a collapsed section with a summary line and a text."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"
