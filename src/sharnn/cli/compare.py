"""`sharnn compare`: train recipes under equal conditions and print what each reaches."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sharnn.cli.common import error_console, make_parser, naming_options, print_tables
from sharnn.errors import INTERRUPTED, ConfigError
from sharnn.experiments.comparison.processes import interrupted_by_kill
from sharnn.recipe import shipped_recipes

if TYPE_CHECKING:
    from sharnn.cli.parser import VerbParser

HELP = "train recipes under equal conditions and print their table"

_DESCRIPTION = """\
Train every RECIPE equally long on TEXT, a seed after the other and the recipes in turn, each as a
'sharnn train' of its own; score the best model of each on valid and test (protocol 'strict'); print
the table, with what was published beside it, and write it with a picture and a page into --out.

--scale 0.25 makes a quarter of all widths, lanes and text, so that the whole table runs on a laptop.
A stopped comparison goes on where it was: the same command trains what is missing."""

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
        print("sharnn: stopped; the same command goes on", file=sys.stderr)
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
        help="recipes, each a name, a file or NAME='RECIPE OPTIONS', and last what to train on",
    )
    parser.add_argument(
        "--budget",
        type=str,
        default="10m",
        help="of each run: 90s, 10m, 5000steps, 3epochs, 50Mtokens; or several, as in 30s,90s",
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each recipe")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share that widths, lanes and text are shrunk to"
    )
    parser.add_argument("--out", type=str, default="comparison", help="folder of the results")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs side by side, not with time budgets"
    )
    parser.add_argument(
        "--threads", type=int | None, help="of each run (default: all, shared by the jobs)"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--again", action="store_true", help="train what the results hold already, too"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave run folders and logs in the results' folder"
    )
    return parser


def _compare(argv: list[str]) -> int:
    options = _make_parser().parse_scattered(argv)
    contenders, text = _contenders_and_text(options.names)

    from sharnn.experiments.comparison.compare import PAGE, Comparison, compare
    from sharnn.experiments.comparison.contenders import Budget

    comparison = Comparison(
        contenders,
        text,
        out=Path(options.out),
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
    if text in shipped:
        raise ConfigError(f"{text} is a recipe, and there is no TEXT to train on: name it last")
    if text.endswith((".yaml", ".yml")):
        raise ConfigError(f"{text} is a recipe by its name, and there is no TEXT: name it last")
    if not recipes:
        raise ConfigError(
            f"there is no recipe to train on {text}: name one or several of {', '.join(shipped)}"
        )
    return recipes, text
