"""A run of a comparison: from its plan to its figures.

Each run trains in its own process, which is set up as `sharnn train` is. Then the run's best model is
scored in this process. Until it is finished, its key lies beside its folder: a later plan with the same
key resumes a run that was stopped (which saves a checkpoint) or killed.

FOLDER/
  NAME                a run folder
  NAME.yaml           the recipe, until the run folder has it
  NAME.log            what its process printed
  NAME.stopped.json   its key, until it is finished
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

import numpy as np
import torch

from sharnn import machine
from sharnn.checkpoint import LoadedModel, RunFolder, load_model
from sharnn.config import DataConfig
from sharnn.data.corpus import Corpus, Split
from sharnn.errors import CheckpointError, DataError, SharnnError, TrainingError
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

#: Most points of a training curve that are kept.
_CURVE_POINTS = 200
#: Suffix of the file with the key of a stopped run.
_STOPPED = ".stopped.json"
#: Tokens whose bytes are counted at a time.
_CHUNK_TOKENS = 1 << 18


@dataclass
class Runner:
    """Trains and scores runs of the same text.

    Attributes:
        corpus: The prepared text.
        text: Its name.
        device: As `train.device`.
        environment: Environment variables of the training processes.
        folder: Folder of the run folders and logs.
        keeps: Whether those of finished and failed runs stay there.
        command: The command line of the comparison, recorded with each run.
        splits: The scored splits: `valid`, or `test` as well.
        share: Share of each split that is scored, from its beginning.
        processes: The training processes.
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
        """Run a plan; return its figures as JSON values.

        Raises:
            SharnnError: The run failed, or was stopped.
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
        write_json(_beside(folder, _STOPPED), key_of(plan.key), DataError)
        try:
            figures = self._train_and_score(plan, folder)
        except StoppedError as stop:
            if not RunFolder(folder).exists():
                _remove(folder)
            raise StoppedError(f"{plan}: {stop}") from stop
        except SharnnError as failure:
            self._clear(folder)
            raise TrainingError(f"{plan}: {failure}") from failure
        self._clear(folder)
        return {**facts, **figures}

    def _folder_of(self, plan: Plan) -> Path:
        """Return the folder of an unfinished run with the same key, or else a new one.

        Folders that an earlier command kept are not used again.
        """
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{plan.name}-{plan.budget.text}-seed{plan.seed}")
        number = 1
        while True:
            folder = self.folder / (stem if number == 1 else f"{stem}-{number}")
            if _can_resume(folder, plan):
                return folder
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1
            except OSError as failure:
                raise DataError(explain_os_error(failure, folder, "write")) from failure

    def _clear(self, folder: Path) -> None:
        """Remove the files of a run; if they are kept, only its key."""
        if self.keeps:
            _beside(folder, _STOPPED).unlink(missing_ok=True)
        else:
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
            recipe.unlink(missing_ok=True)  # the run folder has a copy
        run = read_run(folder)
        return {
            "wall_seconds": round(took, 1),
            **figures_of(run),
            **self.score(plan, folder, run),
        }

    def score(self, plan: Plan, folder: Path, run: RunRecord) -> Run:
        """Score a run's best model on the splits of the text that it was trained on.

        An experiment that scores models in another way overrides this method.

        With `reach: segment`, a position reaches less far the longer segments are, so such a model is
        scored with the segment length that it was trained with.
        """
        corpus = Corpus.find(run.facts["corpus_digest"])
        if corpus is None:
            raise DataError(
                f"{run.facts['corpus']} is no longer in the cache: run the command again"
            )
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
    for ending in (".log", _STOPPED):
        _beside(folder, ending).unlink(missing_ok=True)


def _can_resume(folder: Path, plan: Plan) -> bool:
    """Return whether a folder has an unfinished run with a plan's key that no process is training."""
    path, run = _beside(folder, _STOPPED), RunFolder(folder)
    if not (path.is_file() and run.exists() and read_json(path, DataError) == key_of(plan.key)):
        return False
    try:
        with run.locked():
            return True
    except CheckpointError:
        return False


def environment_for(threads: int | None, jobs: int) -> tuple[dict[str, str], int]:
    """Return the environment variables of runs, and their number of threads; limits this process too.

    By default they are this process's own, as they are for a user's `sharnn train`.

    Args:
        threads: Threads of each run; None divides all threads by `jobs`.
        jobs: Number of runs in parallel.
    """
    used = threads or max(torch.get_num_threads() // jobs, 1)
    if threads is None and jobs == 1:
        return dict(os.environ), used
    torch.set_num_threads(used)
    return {**os.environ, "OMP_NUM_THREADS": str(used), "MKL_NUM_THREADS": str(used)}, used


def beginning_of(split: Split, tokenizer: Tokenizer, share: float) -> Split:
    """Return the first tokens of a split that contain a share of its bytes.

    So contenders with different tokenizers are scored on the same text, except the end of the last token.

    Raises:
        DataError: The share is less than a byte.
    """
    if share == 1:
        return split
    wanted = math.floor(share * split.num_bytes)
    if wanted == 0:
        raise DataError(
            f"share is {share:g}: that leaves nothing of {split.num_bytes:,} bytes to score, use a "
            "longer text or a larger share"
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
    """Return the figures of a training, and its curves with points `[tokens, seconds, bits]`."""
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
