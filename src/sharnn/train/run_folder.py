"""The folder of a run: its recipe, metrics, checkpoints, and which of these are best and last.

runs/NAME/
  recipe.yaml         all settings, resolved
  metrics.jsonl       one JSON object a line
  checkpoints/step-…  model folder and trainer state
  best, last          links to two of these
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharnn.checkpoint import BEST, LAST
from sharnn.config import Recipe
from sharnn.errors import CheckpointError, ConfigError
from sharnn.files import atomic_file, explain_os_error, link_atomically, remove_partials

RECIPE, METRICS, CHECKPOINTS = "recipe.yaml", "metrics.jsonl", "checkpoints"


def is_run_folder(path: Path) -> bool:
    """Return whether a run was begun in a folder."""
    return (path / RECIPE).is_file()


class RunFolder:
    """Paths of a run, and the changes made to them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_path = path / RECIPE
        self.metrics_path = path / METRICS
        self.checkpoints_path = path / CHECKPOINTS

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            ConfigError: There is a run, or something else, already.
            CheckpointError: The folder cannot be written.
        """
        run = cls(path)
        if is_run_folder(path):
            raise ConfigError(
                f"{path} holds a run already: go on with 'sharnn train --resume {path}', or give "
                "another --out"
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} is there and is no run: give an --out that is new or empty")
        with atomic_file(run.recipe_path, CheckpointError) as file:
            file.write(recipe.to_yaml().encode())
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of a run that was begun, cleared of half-written files.

        Raises:
            CheckpointError: There is none.
        """
        run = cls(path)
        if not is_run_folder(path):
            raise CheckpointError(
                f"{path} is not a run folder: it has no {RECIPE}; begin one with "
                f"'sharnn train TEXT --out {path}'"
            )
        remove_partials(run.path)
        if run.checkpoints_path.is_dir():
            remove_partials(run.checkpoints_path)
        return run

    def checkpoint_path(self, step: int) -> Path:
        """Return where the checkpoint of `step` lies."""
        return self.checkpoints_path / f"step-{step:08d}"

    def last_checkpoint(self) -> Path | None:
        """Return the newest checkpoint, None before the first."""
        last = self.path / LAST
        return last.resolve() if last.exists() else None

    def mark(self, step: int, best: bool) -> None:
        """Let `last`, and `best` if so, mean the checkpoint of `step`; remove those nobody means.

        Raises:
            CheckpointError: The links cannot be written.
        """
        target = f"{CHECKPOINTS}/{self.checkpoint_path(step).name}"
        try:
            link_atomically(self.path / LAST, target)
            if best:
                link_atomically(self.path / BEST, target)
        except OSError as failure:
            raise CheckpointError(explain_os_error(failure, self.path, "write")) from failure
        meant = {(self.path / name).resolve() for name in (LAST, BEST)}
        for folder in self.checkpoints_path.glob("step-*"):
            if folder.resolve() not in meant:
                shutil.rmtree(folder, ignore_errors=True)

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the records so far; a last line that was cut by a kill is left out."""
        if not self.metrics_path.exists():
            return
        with self.metrics_path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)

    def rewind_metrics(self, step: int) -> None:
        """Drop records after `step`: the run goes on from there and writes them anew.

        Raises:
            CheckpointError: The file cannot be written.
        """
        if not self.metrics_path.exists():
            return
        with atomic_file(self.metrics_path, CheckpointError) as file:
            for record in self.read_metrics():
                if record["step"] <= step and record["kind"] != "end":
                    file.write((json.dumps(record) + "\n").encode())
