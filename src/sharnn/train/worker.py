"""Training in a separate process, for experiments: from a recipe file to a run folder.

The process is set up in the same way as by the command line, so that measurements apply to its users.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sharnn.errors import INTERRUPTED, SharnnError
from sharnn.recipe import load_recipe_settings, recipe_from_settings
from sharnn.train.launch import resume_run, start_run

# The process must be set up before torch is imported, which importing `sharnn.train` does.
_PROGRAM = (
    "from sharnn.machine import tune_process; tune_process(); "
    "from sharnn.train.worker import main; raise SystemExit(main())"
)


def start_command(recipe_file: Path, run: Path) -> list[str]:
    """Return the command line that trains a recipe."""
    return [sys.executable, "-c", _PROGRAM, str(run), str(recipe_file)]


def resume_command(run: Path) -> list[str]:
    """Return the command line that resumes a run."""
    return [sys.executable, "-c", _PROGRAM, str(run)]


def main(argv: Sequence[str] | None = None) -> int:
    """Train with the arguments `RUN RECIPE`, or resume with `RUN`; return the exit code."""
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
