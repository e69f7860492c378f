"""A run of a comparison, from its plan to its figures.

Each is a process of its own, set up as a user's `sharnn train`; the model that did best while it trained
is then scored in this process.

A training that is stopped saves itself, and what makes its figures is written beside its folder: a plan
of the same key goes on with it.

FOLDER/
  NAME                a run folder
  NAME.yaml           the recipe, until the run folder has it
  NAME.log            what its process printed
  NAME.stopped.json   there while it waits to be resumed
"""

from __future__ import annotations

import math
import os
import re
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sharnn import machine
from sharnn.checkpoint import LoadedModel, RunFolder, load_model
from sharnn.config import DataConfig
from sharnn.data.corpus import Corpus, Split
from sharnn.errors import DataError, SharnnError, TrainingError
from sharnn.evaluate import SEGMENT_LENGTH, evaluate_static
from sharnn.experiments.comparison.contenders import Plan
from sharnn.experiments.comparison.processes import Processes, StoppedError
from sharnn.experiments.comparison.run_store import Run, key_of
from sharnn.files import atomic_file, explain_os_error, read_json, write_json
from sharnn.report import RunRecord, read_run
from sharnn.text import Tokenizer
from sharnn.train import resolve_device
from sharnn.train.trainer import train_tokens
from sharnn.train.worker import resume_command, start_command

#: Points of a training curve that are kept.
_CURVE_POINTS = 200
#: Ending of the file that tells which run was stopped.
_STOPPED = ".stopped.json"
#: Tokens whose bytes are looked at together.
_CHUNK_TOKENS = 1 << 18


@dataclass
class Runner:
    """Where runs take place, and what they have in common.

    Attributes:
        corpus: The text, prepared.
        text: Its name.
        device: As `sharnn train` takes it.
        environment: Of the processes.
        folder: Where run folders and logs are made.
        keeps: Whether those of finished runs stay there.
        command: The command line of the comparison, noted with each run.
        splits: Scored of each run: `valid`, or `test` too.
        share: Of each split that is scored, from its beginning.
        processes: Those at work.
    """

    corpus: Corpus
    text: str
    device: str
    environment: dict[str, str]
    folder: Path
    keeps: bool
    command: str
    splits: Sequence[str] = ("valid",)
    share: float = 1.0
    processes: Processes = field(default_factory=Processes)

    def measure(self, plan: Plan) -> Run:
        """Run a plan; return all its figures as JSON values.

        Raises:
            SharnnError: It failed.
        """
        train, valid = self.corpus.split("train"), self.corpus.split("valid")
        facts = {
            "contender": plan.name,
            **plan.key,
            "text": self.corpus.name,
            "train_bytes": train.num_bytes,
            "valid_bytes": valid.num_bytes,
            "command": self.command,
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **machine.versions(),
            **plan.facts,
        }
        folder = self._folder_of(plan)
        try:
            figures = self._train_and_score(plan, folder)
        except StoppedError as stop:
            self._leave_stopped(plan, folder)
            raise StoppedError(f"{plan}: {stop}") from stop
        except SharnnError as failure:
            self._clear(folder)
            raise TrainingError(f"{plan}: {failure}") from failure
        self._clear(folder)
        return {**facts, **figures}

    def _folder_of(self, plan: Plan) -> Path:
        """Return the folder of a stopped run of the same key, else make an empty one.

        One that an earlier command kept stays as it is.
        """
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{plan.name}-{plan.budget.text}-seed{plan.seed}")
        number = 1
        while True:
            folder = self.folder / (stem if number == 1 else f"{stem}-{number}")
            if _stopped_key(folder) == key_of(plan.key):
                return folder
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1
            except OSError as failure:
                raise DataError(explain_os_error(failure, folder, "write")) from failure

    def _leave_stopped(self, plan: Plan, folder: Path) -> None:
        """Let a later command go on with a training, if it has come as far as to be a run."""
        if RunFolder(folder).exists():
            write_json(_beside(folder, _STOPPED), key_of(plan.key), DataError)
        else:
            _remove(folder)

    def _clear(self, folder: Path) -> None:
        """Remove what a run leaves, but for what is kept."""
        _beside(folder, _STOPPED).unlink(missing_ok=True)
        if not self.keeps:
            _remove(folder)

    def _train_and_score(self, plan: Plan, folder: Path) -> Run:
        recipe = _beside(folder, ".yaml")
        if RunFolder(folder).exists():
            command = resume_command(folder)
        else:
            with atomic_file(recipe, DataError) as file:
                file.write(plan.recipe.to_yaml().encode())
            command = start_command(recipe, folder)
        try:
            took = self.processes.run(command, _beside(folder, ".log"), self.environment)
        finally:
            recipe.unlink(missing_ok=True)  # the run folder has it, with what the run chose
        run = read_run(folder)
        return {
            "wall_seconds": round(took, 1),
            **figures_of(run),
            **self.score(plan, folder, run),
        }

    def score(self, plan: Plan, folder: Path, run: RunRecord) -> Run:
        """Score a run's best model on the text that it was trained on, of which it may read a part.

        An experiment that scores models otherwise overrides this method.

        A model whose reach depends on where segments begin is read in segments as long as those it
        was trained with, for longer ones would leave it next to no memory.
        """
        corpus = Corpus.find(run.facts["corpus_digest"])
        if corpus is None:
            raise DataError(f"{run.facts['corpus']} is gone from the cache: run the command again")
        loaded, settings = load_model(folder, resolve_device(self.device)), plan.key["settings"]
        segmented = settings["model"]["reach"] == "segment"
        length = settings["data"]["segment_length"] if segmented else SEGMENT_LENGTH
        figures: Run = {
            "best_step": loaded.card["steps"],
            "epoch_tokens": len(train_tokens(corpus, DataConfig(**settings["data"]))),
            "folded_parameters": loaded.model.fold().num_parameters(),
        }
        for name in self.splits:
            figures.update(self._score_split(loaded, corpus, name, length))
        return figures

    def _score_split(
        self, loaded: LoadedModel, corpus: Corpus, name: str, segment_length: int
    ) -> Run:
        score = evaluate_static(
            loaded.model,
            loaded.tokenizer,
            beginning_of(corpus.split(name), loaded.tokenizer, self.share),
            segment_length=segment_length,
            report=lambda *_: self.processes.check(),
        )
        prefix = "" if name == "valid" else f"{name}_"
        return {f"{prefix}bits_per_byte": score.bits_per_byte, f"{prefix}score": score.to_dict()}


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _beside(folder, ".log").unlink(missing_ok=True)


def _stopped_key(folder: Path) -> dict[str, Any] | None:
    """Return the key of the stopped run in a folder, None where none waits to be gone on with."""
    path = _beside(folder, _STOPPED)
    return read_json(path, DataError) if path.is_file() and RunFolder(folder).exists() else None


def environment_for(threads: int | None, jobs: int) -> tuple[dict[str, str], int]:
    """Return the environment of runs and their threads; scoring in this process uses no more.

    Where nothing is asked for it is this process's own, so that what is measured is what a user gets.

    Args:
        threads: Of each run; None shares all among the jobs.
        jobs: Runs side by side.
    """
    used = threads or max(torch.get_num_threads() // jobs, 1)
    if threads is None and jobs == 1:
        return dict(os.environ), used
    torch.set_num_threads(used)
    return {**os.environ, "OMP_NUM_THREADS": str(used), "MKL_NUM_THREADS": str(used)}, used


def beginning_of(split: Split, tokenizer: Tokenizer, share: float) -> Split:
    """Return the first tokens of a split that hold that share of its bytes.

    So whatever a contender's tokens are, the same text is scored, but for the last token's end.

    Raises:
        DataError: That would be nothing.
    """
    if share == 1:
        return split
    wanted = math.floor(share * split.num_bytes)
    if wanted == 0:
        raise DataError(
            f"share is {share:g}: of {split.num_bytes:,} bytes that is nothing to score, use a longer "
            "text or a larger share"
        )
    bytes_of_token = np.array([len(tokenizer.token_bytes(t)) for t in range(tokenizer.vocab_size)])
    num_tokens = num_bytes = 0
    while num_bytes < wanted:
        chunk = split.tokens[num_tokens : num_tokens + _CHUNK_TOKENS]
        ends = num_bytes + np.cumsum(bytes_of_token[chunk])
        taken = min(int(np.searchsorted(ends, wanted)) + 1, len(ends))
        num_tokens, num_bytes = num_tokens + taken, int(ends[taken - 1])
    return split.part(tokenizer, 0, num_tokens)


def figures_of(run: RunRecord) -> Run:
    """Return the figures of a training and its curves, each point `[tokens, seconds, bits]`."""
    train = run.curves["smooth"].rows
    step = max(math.ceil(len(train) / _CURVE_POINTS), 1)
    return {
        "machine": run.facts["machine"],
        "dtype": run.facts["dtype"],
        "parameters": run.facts["num_parameters"],
        "steps": run.last["step"],
        "tokens_seen": run.last["tokens_seen"],
        "seconds": run.last["seconds"],
        "tokens_per_second": statistics.median(run.curves["tokens_per_second"].column(2)),
        "end": run.end,
        "valid_curve": [_rounded(point) for point in run.valid],
        "train_curve": [_rounded(point) for point in train[::-1][::step][::-1]],
    }


def _rounded(point: Sequence[float]) -> list[float]:
    tokens, seconds, bits = point
    return [round(tokens), round(seconds, 2), round(bits, 4)]
