"""`sharnn report`: plot the learning curves of runs."""

from __future__ import annotations

from pathlib import Path

from sharnn.cli.common import make_parser, output_folder, print_facts

HELP = "plot the learning curves of runs"

_DESCRIPTION = """\
Plot bits per byte against tokens and time, and the learning rate, gradient norm and speed, of one or
several runs: as a picture, and as a self-contained page."""

_EXAMPLES = "examples:\n  sharnn report runs/mine\n  sharnn report runs/* --out comparison"


def run(argv: list[str]) -> int:
    """Parse, write the report, and print its table and paths."""
    parser = make_parser("report", "RUN [RUN…] [--out FOLDER]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_options({
        "--out": (str, "folder of the report (default: the run's folder; with several runs, the "
                       "current folder)", "FOLDER"),
    })  # fmt: skip
    options = parser.parse_args(argv)
    out = output_folder(options.out) if options.out else None

    from sharnn.report import read_run, summary_rows, write_report

    runs = [read_run(Path(folder)) for folder in options.runs]
    paths = write_report(runs, out)
    print_facts(summary_rows(runs))
    print(f"report  {paths.html}")
    print(f"curves  {paths.png}")
    return 0
