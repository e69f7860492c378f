"""The folder of a run: the one place that knows its files, its links and how they are read.

runs/NAME/
  recipe.yaml         all settings, resolved; marks the folder as a run
  run.json            what the run began with that no setting says, see `RunFacts`
  tokenizer.json      copy of a tokenizer that came from a file
  metrics.jsonl       one JSON object per line
  checkpoints/step-…  the last checkpoint: a model folder with the trainer's state
  checkpoints/best-…  the best model: a model folder alone
  best, last          links to these two; where there are no symbolic links, files with their paths
  tensorboard/        events, if requested
  .lock               held by the process that trains
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sharnn.checkpoint import format as fmt
from sharnn.config import Recipe
from sharnn.errors import CheckpointError, ConfigError
from sharnn.files import (
    atomic_file,
    explain_os_error,
    held_lock,
    link_atomically,
    read_json,
    remove_partials,
    write_json,
)
from sharnn.text import Tokenizer, save_tokenizer

_CHECKPOINTS = "checkpoints"
#: More bytes than the path in a file in place of a link has.
_LONGEST_LINK = 100
#: How names of folders under `checkpoints` begin; their step follows.
_CHECKPOINT, _MODEL = "step", "best"


@dataclass(frozen=True)
class RunFacts:
    """What a run began with that its settings do not say.

    Attributes:
        corpus: Name of the text.
        corpus_digest: Digest of the prepared text; a resumed run reads the same one.
        initial_digest: SHA-256 of the weights of `train.init_from`; None without it.
        chosen: Settings that the run chose (`train.fit`), by name.
    """

    corpus: str
    corpus_digest: str
    initial_digest: str | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)


class RunFolder:
    """Paths of a run, and the changes made to them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_path = path / "recipe.yaml"
        self.facts_path = path / "run.json"
        self.tokenizer_path = path / fmt.TOKENIZER
        self.metrics_path = path / "metrics.jsonl"
        self.tensorboard_path = path / "tensorboard"
        self.checkpoints_path = path / _CHECKPOINTS
        self.best, self.last = path / "best", path / "last"

    @classmethod
    def create(
        cls, path: Path, recipe: Recipe, facts: RunFacts, tokenizer: Tokenizer | None = None
    ) -> RunFolder:
        """Make the folder of a new run.

        Args:
            path: A folder that does not exist or is empty.
            recipe: Its settings.
            facts: What else it began with.
            tokenizer: A tokenizer to keep a copy of.

        Raises:
            ConfigError: The folder contains a run, or something else.
            CheckpointError: The folder cannot be written.
        """
        run = cls(path)
        run.refuse_taken()
        run._write_facts(facts)
        if tokenizer is not None:
            save_tokenizer(tokenizer, run.tokenizer_path)
        run._write_recipe(recipe)  # last: it marks the folder
        return run

    def change_recipe(self, recipe: Recipe) -> None:
        """Replace the settings.

        Raises:
            CheckpointError: A file cannot be written.
        """
        if not self.facts_path.exists():  # earlier versions have the facts in the recipe alone
            self._write_facts(self.facts())
        self._write_recipe(recipe)

    def _write_facts(self, facts: RunFacts) -> None:
        write_json(self.facts_path, asdict(facts), CheckpointError)

    def _write_recipe(self, recipe: Recipe) -> None:
        with atomic_file(self.recipe_path, CheckpointError) as file:
            file.write(recipe.to_yaml().encode())

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of a run that was begun.

        Raises:
            CheckpointError: There is no run in it.
        """
        run = cls(path)
        if not run.exists():
            raise CheckpointError(
                f"{path} is not a run folder: it has no {run.recipe_path.name}; begin a run with "
                f"'sharnn train TEXT --out {path}'"
            )
        return run

    def exists(self) -> bool:
        """Return whether a run was begun in the folder."""
        return self.recipe_path.is_file()

    def refuse_taken(self) -> None:
        """Refuse a folder in which a new run cannot begin.

        Raises:
            ConfigError: It contains a run, or something else.
        """
        if self.exists():
            raise ConfigError(
                f"{self.path} already contains a run: resume it with 'sharnn train --resume "
                f"{self.path}', or choose another folder"
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(
                f"{self.path} exists and is not a run: choose a folder that is new or empty"
            )

    def facts(self) -> RunFacts:
        """Return what the run began with.

        Earlier versions wrote the digests among the settings.

        Raises:
            CheckpointError: The file is damaged.
        """
        if self.facts_path.exists():
            try:
                facts = RunFacts(**read_json(self.facts_path, CheckpointError))
                facts.corpus_digest.encode()
            except (TypeError, AttributeError) as failure:
                raise CheckpointError(
                    f"{self.facts_path} does not contain the facts of a run ({failure}): restore it"
                ) from failure
            return facts
        sections = yaml.safe_load(self.recipe_path.read_text(encoding="utf-8"))
        data, train = sections["data"], sections["train"]
        if data.get("digest") is None:
            raise CheckpointError(
                f"{self.facts_path} is missing: restore it, or begin a new run from "
                f"{self.recipe_path}"
            )
        return RunFacts(", ".join(data["texts"]), data["digest"], train.get("init_digest"))

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from this run inside of a `with`.

        Raises:
            CheckpointError: One is at work on it, or the folder cannot be written.
        """
        return held_lock(
            self.path / ".lock",
            f"another process is training {self.path}: wait for it, or stop it",
            CheckpointError,
        )

    def mend(self) -> None:
        """Remove partial files and restore links that copying has changed; call it while `locked`.

        A link that became a folder, as in copies over the network, becomes a link again. A lost one, as
        in archives without links, is restored. `best` becomes the model that was the best when `last`
        was written, because what came after it is trained again.

        Raises:
            CheckpointError: The last checkpoint is missing and there is no other, or a link cannot be
                written.
        """
        remove_partials(self.path)
        if self.checkpoints_path.is_dir():
            remove_partials(self.checkpoints_path)
        for link in (self.best, self.last):
            self._link_folder(link)
        last = self.last_checkpoint()
        if last is not None and self._linked(self.last) is None:
            self._link(self.last, last)
        if last is None and (self.last.is_symlink() or self.last.exists()):
            named = _named_by(self.last) or "no checkpoint"
            raise CheckpointError(
                f"{self.last} points to {named}, which is gone, and there is no other checkpoint: "
                "restore it, or begin a new run"
            )
        models = self._best_models()
        if models and self._linked(self.best) not in models:
            self._link(self.best, models[-1])

    def _link_folder(self, link: Path) -> None:
        """Move a folder that replaced a link to `checkpoints`, and link to it."""
        if link.is_symlink() or not link.is_dir():
            return
        if fmt.is_checkpoint(link):
            folder = self.checkpoints_path / _name_of(_CHECKPOINT, fmt.read_counters(link)["step"])
        else:
            card = fmt.read_manifest(link / fmt.CONFIG).get("card", {})
            folder = self.checkpoints_path / _name_of(_MODEL, card.get("steps", 0))
        try:
            if folder.is_dir():
                shutil.rmtree(link)
            else:
                self.checkpoints_path.mkdir(exist_ok=True)
                os.replace(link, folder)
        except OSError as failure:
            raise CheckpointError(explain_os_error(failure, link, "write")) from failure
        self._link(link, folder)

    def _link(self, link: Path, folder: Path) -> None:
        """Let a link point to a folder under `checkpoints`.

        Raises:
            CheckpointError: It cannot be written.
        """
        target = f"{_CHECKPOINTS}/{folder.name}"
        try:
            link_atomically(link, target)
        except OSError:  # no symbolic links on this file system, or no more room
            with atomic_file(link, CheckpointError) as file:
                file.write(target.encode())

    def _linked(self, link: Path) -> Path | None:
        """Return the folder that a link points to, None if there is none."""
        named = _named_by(link)
        folder = link if named is None else self.path / named
        return folder.resolve() if folder.is_dir() else None

    def next_checkpoint(self, step: int) -> Path:
        """Return where to write a checkpoint of `step`: a folder that does not exist."""
        return self._new_folder(_CHECKPOINT, step)

    def next_best(self, step: int) -> Path:
        """Return where to write the best model, of `step`: a folder that does not exist."""
        return self._new_folder(_MODEL, step)

    def _new_folder(self, kind: str, step: int) -> Path:
        folder = self.checkpoints_path / _name_of(kind, step)
        while folder.exists():
            folder = folder.with_name(f"{folder.name}-again")
        return folder

    def last_checkpoint(self) -> Path | None:
        """Return the last checkpoint, None before the first; a copy of a run may have lost the link."""
        newest = max(self.checkpoints_path.glob(f"{_CHECKPOINT}-*"), default=None)
        return self._linked(self.last) or (newest and newest.resolve())

    def best_model(self) -> Path | None:
        """Return the best model, or else the last one; None before the first."""
        if (linked := self._linked(self.best)) is not None:
            return linked
        models = self._best_models()
        return models[-1] if models else self.last_checkpoint()

    def mark_last(self, checkpoint: Path) -> None:
        """Let `last` point to a checkpoint, and remove the folders that are no longer needed.

        Raises:
            CheckpointError: The link cannot be written.
        """
        self._link(self.last, checkpoint)
        self._remove_old()

    def mark_best(self, model: Path) -> None:
        """Let `best` point to a model folder, and remove the folders that are no longer needed.

        Raises:
            CheckpointError: The link cannot be written.
        """
        self._link(self.best, model)
        self._remove_old()

    def _remove_old(self) -> None:
        """Keep the last checkpoint, the best model, and the model that was the best at that checkpoint.

        A run that is killed resumes from `last`, whose counters name that last one as the best.
        """
        best = self._linked(self.best)
        needed = {self.last_checkpoint(), best}
        models = self._best_models()
        if best not in models:
            needed.update(models[-1:])
        for kind in (_CHECKPOINT, _MODEL):
            for folder in self.checkpoints_path.glob(f"{kind}-*"):
                if folder.resolve() not in needed:
                    shutil.rmtree(folder, ignore_errors=True)

    def _best_models(self) -> list[Path]:
        """Return the folders of the model that was the best when `last` was written.

        There are none before the first validation. In runs of earlier versions it is a checkpoint.
        """
        last = self.last_checkpoint()
        if last is None or not fmt.is_checkpoint(last):
            return []
        counters = fmt.read_counters(last)
        if counters["best_bits_per_byte"] is None:
            return []
        step, folder = counters["best_step"], self.checkpoints_path.resolve()
        found = [sorted(folder.glob(f"{_name_of(k, step)}*")) for k in (_CHECKPOINT, _MODEL)]
        return found[1] or found[0]

    # ------------------------------------------------------------------------------ what it logged

    def recipe_text(self) -> str:
        """Return the settings as YAML, empty if there are none."""
        return self.recipe_path.read_text(encoding="utf-8") if self.exists() else ""

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the records so far; an incomplete last line, left by a killed process, is skipped.

        Raises:
            CheckpointError: The file is missing or unreadable, or another line is damaged.
        """
        try:
            with self.metrics_path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        return
                    yield self._record(line, number)
        except OSError as failure:
            raise CheckpointError(explain_os_error(failure, self.metrics_path, "read")) from failure

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(line)
            record["kind"], record["step"]
        except (ValueError, KeyError, TypeError) as failure:
            raise CheckpointError(
                f"{self.metrics_path}, line {number} is damaged ({failure!r}): remove that line, or "
                "use another run"
            ) from failure
        return record

    def rewind_metrics(self, step: int) -> None:
        """Drop records after `step`: a resumed run writes them again.

        Raises:
            CheckpointError: The file cannot be read or written.
        """
        if not self.metrics_path.exists():
            return
        with atomic_file(self.metrics_path, CheckpointError) as file:
            for record in self.read_metrics():
                if record["step"] <= step and record["kind"] != "end":
                    file.write((json.dumps(record) + "\n").encode())


def _named_by(link: Path) -> str | None:
    """Return what a symbolic link or a file in place of one points to; None if it is neither."""
    if link.is_symlink():
        return os.readlink(link)
    if not link.is_file():
        return None
    text = link.read_bytes()[:_LONGEST_LINK].decode(errors="replace").strip()
    return text if text.startswith(f"{_CHECKPOINTS}/") else None


def _name_of(kind: str, step: int) -> str:
    return f"{kind}-{step:08d}"
