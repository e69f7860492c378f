"""Training in a process of its own, for experiments: a recipe file in, a run folder out.

The process is set up as the command line sets up its own, so that what is measured is what a user gets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sharnn.errors import INTERRUPTED, SharnnError
from sharnn.recipe import load_recipe_settings, recipe_from_settings
from sharnn.train.launch import resume_run, start_run

# The process must be tuned before torch is imported, which this package does.
_PROGRAM = (
    "from sharnn.machine import tune_process; tune_process(); "
    "from sharnn.train.worker import main; raise SystemExit(main())"
)


def start_command(recipe_file: Path, run: Path) -> list[str]:
    """Return the command line of a training."""
    return [sys.executable, "-c", _PROGRAM, str(run), str(recipe_file)]


def resume_command(run: Path) -> list[str]:
    """Return the command line that goes on with a training."""
    return [sys.executable, "-c", _PROGRAM, str(run)]


def main(argv: Sequence[str] | None = None) -> int:
    """Train `RUN RECIPE`, or go on with `RUN`; return the exit code."""
    run, *recipe_file = sys.argv[1:] if argv is None else argv
    console = Console(stderr=True, soft_wrap=True)
    try:
        if recipe_file:
            recipe = recipe_from_settings(load_recipe_settings(recipe_file[0]))
            outcome = start_run(recipe, Path(run), console)
        else:
            outcome = resume_run(Path(run), console)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SharnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return INTERRUPTED if outcome.interrupted else 0
