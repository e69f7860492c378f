"""`sharnn report`: draw learning curves."""

from __future__ import annotations

from pathlib import Path

from sharnn.cli.common import make_parser

HELP = "draw the learning curves of runs"

_DESCRIPTION = """\
Draw bits per byte against tokens and time, learning rate, gradient norm and speed of one run or
several, as a picture and as one self-contained page. The report of one run goes into its folder, of
several into the current one, or into --out."""

_EXAMPLES = "examples:\n  sharnn report runs/mine\n  sharnn report runs/* --out comparison"


def run(argv: list[str]) -> int:
    """Parse, draw, and say where the report is."""
    parser = make_parser("report", "RUN [RUN…] [--out FOLDER]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--out", type=str | None, help="folder of the report")
    options = parser.parse_args(argv)

    from rich.console import Console
    from rich.table import Table

    from sharnn.report import read_run, summary_rows, write_report

    runs = [read_run(Path(folder)) for folder in options.runs]
    paths = write_report(runs, Path(options.out) if options.out else None)
    table = Table(box=None, show_header=False)
    for name, cells in summary_rows(runs):
        table.add_row(name, *cells)
    Console().print(table)
    print(f"report  {paths.html}")
    print(f"curves  {paths.png}")
    return 0
