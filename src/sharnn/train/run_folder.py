"""The folder of a run: its recipe, metrics, checkpoints, and which of these are best and last.

runs/NAME/
  recipe.yaml         all settings, resolved
  metrics.jsonl       one JSON object a line
  checkpoints/step-…  the last checkpoint: model folder and trainer state
  checkpoints/best-…  the best model: a model folder alone
  best, last          links to these
  .lock               held by the process that trains
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharnn.checkpoint import BEST, LAST, is_checkpoint, read_counters, read_model_folder
from sharnn.config import Recipe
from sharnn.errors import CheckpointError, ConfigError
from sharnn.files import (
    atomic_file,
    explain_os_error,
    held_lock,
    link_atomically,
    remove_partials,
)

RECIPE, METRICS, CHECKPOINTS, LOCK = "recipe.yaml", "metrics.jsonl", "checkpoints", ".lock"
#: How names of folders under `checkpoints` begin; their step follows.
_CHECKPOINT, _MODEL = "step", "best"


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
        cls.refuse_taken(path)
        run = cls(path)
        with atomic_file(run.recipe_path, CheckpointError) as file:
            file.write(recipe.to_yaml().encode())
        return run

    @staticmethod
    def refuse_taken(path: Path) -> None:
        """Refuse a folder that a new run cannot have.

        Raises:
            ConfigError: There is a run, or something else, already.
        """
        if is_run_folder(path):
            raise ConfigError(
                f"{path} holds a run already: go on with 'sharnn train --resume {path}', or give "
                "another --out"
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} is there and is no run: give an --out that is new or empty")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of a run that was begun.

        Raises:
            CheckpointError: There is none.
        """
        run = cls(path)
        if not is_run_folder(path):
            raise CheckpointError(
                f"{path} is not a run folder: it has no {RECIPE}; begin one with "
                f"'sharnn train TEXT --out {path}'"
            )
        return run

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from this run inside of a `with`.

        Raises:
            CheckpointError: One is at work on it, or the folder cannot be written.
        """
        return held_lock(
            self.path / LOCK,
            f"the run {self.path} is in training already: let that process end, or stop it",
            CheckpointError,
        )

    def mend(self) -> None:
        """Remove half-written files, and put back what copies do to links; while it is `locked`.

        A link that became a folder, as in copies over the network, is a link again. Where `last` is gone,
        as in archives without links, it means the newest checkpoint. `best` means the model that was the
        best when `last` was written: what came after it is trained again.

        Raises:
            CheckpointError: The last checkpoint is gone and there is no other, or a link cannot be
                written.
        """
        remove_partials(self.path)
        if self.checkpoints_path.is_dir():
            remove_partials(self.checkpoints_path)
        for name in (BEST, LAST):
            self._link_folder(name)
        last, best = self.path / LAST, self.path / BEST
        newest = max(self.checkpoints_path.glob(f"{_CHECKPOINT}-*"), default=None)
        if not last.exists() and newest is not None:
            self._link(LAST, newest)
        elif not last.exists() and last.is_symlink():
            raise CheckpointError(
                f"{last} means {os.readlink(last)}, which is gone, and there is no other checkpoint: "
                "restore it, or begin a new run"
            )
        if last.exists():
            models = self._best_models_of(last)
            if models and best.resolve() not in models:
                self._link(BEST, models[-1])

    def _link_folder(self, name: str) -> None:
        """Move a folder that stands where a link should be under `checkpoints`, and link to it."""
        link = self.path / name
        if link.is_symlink() or not link.is_dir():
            return
        if is_checkpoint(link):
            name_there = _name_of(_CHECKPOINT, read_counters(link)["step"])
        else:
            name_there = _name_of(_MODEL, read_model_folder(link).card.get("steps", 0))
        folder = self.checkpoints_path / name_there
        try:
            if folder.is_dir():
                shutil.rmtree(link)
            else:
                self.checkpoints_path.mkdir(exist_ok=True)
                os.replace(link, folder)
        except OSError as failure:
            raise CheckpointError(explain_os_error(failure, link, "write")) from failure
        self._link(name, folder)

    def _link(self, name: str, checkpoint: Path) -> None:
        """Let a link mean a checkpoint.

        Raises:
            CheckpointError: It cannot be written.
        """
        try:
            link_atomically(self.path / name, f"{CHECKPOINTS}/{checkpoint.name}")
        except OSError as failure:
            raise CheckpointError(explain_os_error(failure, self.path / name, "write")) from failure

    def next_checkpoint(self, step: int) -> Path:
        """Return where a checkpoint of `step` is to be written: never over one that is there."""
        return self._new_folder(_CHECKPOINT, step)

    def next_best(self, step: int) -> Path:
        """Return where the best model, of `step`, is to be written: never over one that is there."""
        return self._new_folder(_MODEL, step)

    def _new_folder(self, kind: str, step: int) -> Path:
        folder = self.checkpoints_path / _name_of(kind, step)
        while folder.exists():
            folder = folder.with_name(f"{folder.name}-again")
        return folder

    def last_checkpoint(self) -> Path | None:
        """Return the newest checkpoint, None before the first."""
        last = self.path / LAST
        return last.resolve() if last.exists() else None

    def mark_last(self, checkpoint: Path) -> None:
        """Let `last` mean a checkpoint; remove what nobody means.

        Raises:
            CheckpointError: The link cannot be written.
        """
        self._link(LAST, checkpoint)
        self._remove_old()

    def mark_best(self, model: Path) -> None:
        """Let `best` mean a model folder; remove what nobody means.

        Raises:
            CheckpointError: The link cannot be written.
        """
        self._link(BEST, model)
        self._remove_old()

    def _remove_old(self) -> None:
        """Keep the last checkpoint, the best model, and the one that was the best at that checkpoint.

        A run that is killed goes on from `last`, which knows of no better model than that.
        """
        last, best = self.path / LAST, (self.path / BEST).resolve()
        meant = {last.resolve(), best}
        models = self._best_models_of(last) if last.exists() else []
        if best not in models:
            meant.update(models[-1:])
        for kind in (_CHECKPOINT, _MODEL):
            for folder in self.checkpoints_path.glob(f"{kind}-*"):
                if folder.resolve() not in meant:
                    shutil.rmtree(folder, ignore_errors=True)

    def _best_models_of(self, checkpoint: Path) -> list[Path]:
        """Return the folders of the model that was the best when a checkpoint was written.

        None are there before the first validation; runs of earlier versions have a checkpoint there.
        """
        counters = read_counters(checkpoint)
        if counters["best_bits_per_byte"] is None:
            return []
        step, folder = counters["best_step"], self.checkpoints_path.resolve()
        found = [sorted(folder.glob(f"{_name_of(k, step)}*")) for k in (_CHECKPOINT, _MODEL)]
        return found[1] or found[0]

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


def _name_of(kind: str, step: int) -> str:
    return f"{kind}-{step:08d}"
