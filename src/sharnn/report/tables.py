"""Tables that can be written to a terminal, a Markdown file or a page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import rich.table
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """A table whose columns are right-aligned numbers, except the first and those in `texts`.

    Attributes:
        title: Title, in one line.
        columns: Names of the columns.
        rows: Cells of each row, one per column.
        texts: Names of columns with text, which are left-aligned.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[str] = ()

    def _is_number(self, index: int) -> bool:
        return index > 0 and self.columns[index] not in self.texts

    def to_rich(self) -> Group:
        """Return the table for a terminal, with its title above; the title may be wider."""
        table = rich.table.Table(box=SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(self.columns):
            justify: Literal["left", "right"] = "right" if self._is_number(index) else "left"
            table.add_column(Text(column), justify=justify)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return Group(Text(self.title, style="bold"), table)

    def to_markdown(self) -> str:
        """Return the table for a Markdown file, with its title above."""
        rule = ["---:" if self._is_number(index) else "---" for index in range(len(self.columns))]
        lines = [self.columns, rule, *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_html(self) -> str:
        """Return the table for a page."""

        def line(tag: str, cells: Sequence[str]) -> str:
            classes = [
                ' class="number"' if self._is_number(index) else "" for index in range(len(cells))
            ]
            inner = [
                f"<{tag}{kind}>{escape(cell)}</{tag}>"
                for kind, cell in zip(classes, cells, strict=True)
            ]
            return f"<tr>{''.join(inner)}</tr>"

        rows = "\n".join(line("td", row) for row in self.rows)
        head = line("th", self.columns)
        return (
            f'<div class="scroll"><table>\n<caption>{escape(self.title)}</caption>\n{head}\n{rows}\n'
            "</table></div>"
        )


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation (n − 1); the latter is None for a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def mean_cell(values: Sequence[float], digits: int, single: str = "") -> str:
    """Return `MEAN ± DEVIATION`.

    Args:
        values: One or more.
        digits: Behind the point.
        single: What follows the mean of a single value.
    """
    mean, spread = mean_and_spread(values)
    mean = round(mean, digits) + 0.0  # no minus before zero
    return f"{mean:.{digits}f}{single if spread is None else f' ± {spread:.{digits}f}'}"
