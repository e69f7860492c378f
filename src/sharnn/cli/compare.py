"""`sharnn compare`: train recipes under equal conditions and compare their scores."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

from sharnn.cli.common import (
    DEVICE,
    error_console,
    make_parser,
    naming_options,
    output_folder,
    print_tables,
)
from sharnn.errors import INTERRUPTED, ConfigError
from sharnn.experiments.comparison.processes import interrupted_by_kill
from sharnn.recipe import shipped_recipes

if TYPE_CHECKING:
    from sharnn.cli.parser import VerbParser

HELP = "train recipes under equal conditions and compare their scores"

_DESCRIPTION = """\
Train every RECIPE on TEXT with the same budget and seeds, each in its own 'sharnn train' process. Score
the best model of each run on valid and test (protocol 'strict'). Print a table, with published scores
beside it, and write the table, a picture and a page to --out.

--scale 0.25 reduces widths, lanes and text to a quarter, so that the paper's table runs on a laptop. To
resume a stopped comparison, run the same command again."""

_PAPER = "paper-enwik8-one paper-enwik8-all paper-no-attention plain-lstm transformer"
#: Arguments of the library whose names in messages are replaced by options.
_OPTIONS = {
    **{name: f"--{name}" for name in ("budget", "jobs", "scale", "seeds", "threads")},
    "share": "--scale",
}


def run(argv: list[str]) -> int:
    """Parse, compare, and print the tables; from here on SIGTERM stops everything as Ctrl-C does."""
    try:
        with interrupted_by_kill(), naming_options(_OPTIONS):
            return _compare(argv)
    except KeyboardInterrupt:
        print("sharnn: stopped; the same command resumes", file=sys.stderr)
        return INTERRUPTED


def _make_parser() -> VerbParser:
    examples = (
        "examples:\n"
        f"  sharnn compare {_PAPER} \\\n      my.txt --scale 0.25\n"
        "  sharnn compare paper-enwik8-one mine.yaml enwik8 --budget 2h --seeds 5\n"
        "  sharnn compare demo transformer my.txt --scale 0.25 --budget 1Mtokens --jobs 2\n"
        "  sharnn compare demo wide='demo --model.embed_dim 256' my.txt --budget 30s,90s\n\n"
        f"recipes: {', '.join(shipped_recipes())}, or a YAML file"
    )
    parser = make_parser("compare", "RECIPE… TEXT [options]", _DESCRIPTION, examples)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="RECIPE TEXT",
        help="recipes, each a name, a file or NAME='RECIPE OPTIONS'; the last argument is TEXT",
    )
    parser.add_options({
        "--budget": ("10m", "of each run: 90s, 10m, 5000steps, 3epochs, 50Mtokens; or several: 30s,90s"),
        "--seeds": (3, "runs of each recipe and budget"),
        "--scale": (1.0, "factor for widths, lanes and text"),
        "--out": ("comparison", "folder of the results", "FOLDER"),
        "--jobs": (1, "parallel runs; not with budgets in time"),
        "--threads": (int, "threads of each run (default: all, divided by --jobs)"),
        **DEVICE,
        "--again": (False, "repeat runs that are in the results already"),
        "--keep": (False, "keep run folders and logs in --out"),
    })  # fmt: skip
    return parser


def _compare(argv: list[str]) -> int:
    options = _make_parser().parse_scattered(argv)
    contenders, text = _contenders_and_text(options.names)
    out = output_folder(options.out)

    from sharnn.experiments.comparison.compare import PAGE, Comparison, compare
    from sharnn.experiments.comparison.contenders import Budget

    comparison = Comparison(
        contenders,
        text,
        out=out,
        command=shlex.join(["sharnn", "compare", *argv]),
        budgets=[Budget.parse(budget) for budget in dict.fromkeys(options.budget.split(","))],
        seeds=options.seeds,
        scale=options.scale,
        jobs=options.jobs,
        threads=options.threads,
        device=options.device,
        again=options.again,
        keep=options.keep,
    )
    print_tables(compare(comparison, error_console()))
    print(f"report  {comparison.out / PAGE}")
    return 0


def _contenders_and_text(names: list[str]) -> tuple[list[str], str]:
    """Return RECIPEs and TEXT.

    Raises:
        ConfigError: One of them is missing.
    """
    if not names:
        raise ConfigError("there is nothing to compare: sharnn compare RECIPE… TEXT")
    *recipes, text = names
    shipped = shipped_recipes()
    is_recipe = text in shipped or text.endswith((".yaml", ".yml"))
    if is_recipe or ("=" in text and not os.path.exists(text)):
        raise ConfigError(
            f"{text} is a recipe, and there is no TEXT to train on: give TEXT as the last argument"
        )
    if not recipes:
        raise ConfigError(
            f"there is no recipe to train on {text}: give one or more of {', '.join(shipped)}"
        )
    return recipes, text
