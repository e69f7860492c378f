"""The training loop.

A step reads one segment in all lanes and changes the weights once. The lanes carry their state to the
next segment, without its gradient (truncated back-propagation through time). When the text starts again,
the states are empty again.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharnn.checkpoint import (
    RunFolder,
    load_trainer_state,
    load_weights,
    save_checkpoint,
    save_model,
    tensor_bytes,
)
from sharnn.config import DataConfig, Recipe
from sharnn.data.corpus import Corpus
from sharnn.data.lanes import LaneStream, Segment, Tokens
from sharnn.errors import CheckpointError, DataError, TrainingError
from sharnn.evaluate.score import LN2
from sharnn.model import LanguageModel, RecurrentState
from sharnn.optim import lr_factor
from sharnn.train.counters import Counters
from sharnn.train.journal import Journal, StepResult
from sharnn.train.learner import Learner
from sharnn.train.pace import Pace
from sharnn.train.precision import Precision
from sharnn.train.signals import stop_signals
from sharnn.train.validation import ValidationText

_INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        reason: `budget used up`, `no improvement in … validations` or `interrupted`.
        counters: At the end.
    """

    reason: str
    counters: Counters

    @property
    def interrupted(self) -> bool:
        """Whether a signal stopped the run; it can be resumed."""
        return self.reason == _INTERRUPTED


class Trainer:
    """Trains a model on a corpus; a run that was killed at any point resumes exactly.

    Attributes:
        recipe: All settings.
        run_folder: Folder of the run.
        model: The model.
        lanes: The position in the text.
        states: The recurrent state of each group of lanes.
        counters: How far the run is.
        journal: Receives the records.

    Args:
        recipe: All settings, with the model's vocabulary resolved.
        corpus: Its train split is read; its valid split is scored, unless it is too short.
        run: Where checkpoints are written; the folder must exist by then.
        precision: Device and dtype.
        initial: A model to copy the weights from.

    Raises:
        DataError: The text is too short for its lanes.
    """

    def __init__(
        self,
        recipe: Recipe,
        corpus: Corpus,
        run: RunFolder,
        precision: Precision,
        initial: LanguageModel | None = None,
    ) -> None:
        self.recipe, self.corpus, self.run_folder = recipe, corpus, run
        self.precision = precision
        precision.prepare()
        # Right before the model is made, so that dropout does not depend on what was made before.
        torch.manual_seed(recipe.train.seed)
        self.learner = Learner(recipe, precision)
        self.model = self.learner.model
        data, tokens = recipe.data, train_tokens(corpus, recipe.data)
        if self.model.ngrams is not None:
            self.model.ngrams.learn_vocabulary(tokens, recipe.model.ngram_min_count)
        if initial is not None:
            self.model.load_state_dict(initial.state_dict())
        self.lanes = LaneStream(
            tokens,
            data.num_lanes,
            data.segment_length,
            data.random_segments,
            recipe.train.seed,
            data.block_length,
        )
        train = corpus.split("train")
        self._bytes_per_token = train.num_bytes / max(train.num_tokens, 1)
        self.states = self.learner.initial_states()
        self.counters = Counters()
        self.validation_text = ValidationText(corpus, recipe.train.validation_tokens)
        self.pace = Pace(
            recipe.train,
            data.num_lanes * data.segment_length,
            len(self.validation_text.tokens) if self.validation_text.can_be_scored else 0,
        )
        self.journal = Journal(recipe, corpus, run, precision)
        self._plan_announced = False
        self._validated_step = -1
        self._saved: tuple[int, int] | None = None  # step and validated step of the last checkpoint
        self._saved_best: tuple[int, Path | None] = -1, None  # step and folder of the best model
        self._started = time.monotonic()
        self._stopped = threading.Event()

    # ----------------------------------------------------------------------------------- the run

    def run(self) -> Outcome:
        """Train until the budget is used up, validations stop improving, or a signal arrives.

        Raises:
            TrainingError: Too many steps in a row had no finite loss and gradient.
            CheckpointError: A checkpoint could not be written; earlier ones are untouched.
        """
        self.journal.log_start(self.counters, self.model.num_parameters())
        self._started = time.monotonic() - self.counters.seconds
        self.pace.model_bytes = tensor_bytes(self.model.state_dict())
        with stop_signals(self.journal.announce_stop) as self._stopped:
            if self.recipe.train.init_from is not None and self.counters.step == 0:
                # The initial model may stay the best, and a resume no longer needs the original.
                self._validate_if_stale()
                self.save()
            while (reason := self._reason_to_end()) is None and not self._stopped.is_set():
                self.step()
                self._validate_and_save_if_due()
            if not self._stopped.is_set():
                self._validate_if_stale()
            self.save()
        if reason is None or self._stopped.is_set():
            reason = _INTERRUPTED
        self._tick()
        self.journal.log_end(self.counters, reason)
        return Outcome(reason, self.counters)

    def step(self) -> None:
        """Read one segment in all lanes and change the weights once.

        If loss or gradient is not finite, the weights stay and the states are those before the step; but
        the recall tables keep the segment's n-grams.

        Raises:
            TrainingError: This happened `train.max_skipped_steps` times in a row.
        """
        started = time.monotonic()
        segment = self.lanes.next_segment()
        before = self.learner.initial_states() if segment.first else self.states
        lr = self.learner.set_learning_rate(self._lr_factor(segment))
        nats, after = self.learner.accumulate_gradients(
            self._to_device(segment.inputs), self._to_device(segment.targets), before
        )
        grad_norm = self.learner.clip_gradients()
        # The only place where the host waits for the device.
        nats_value, norm_value = torch.stack([nats, grad_norm]).tolist()
        bits_per_byte = nats_value / LN2 / self._bytes_per_token
        result = StepResult(nats_value, bits_per_byte, norm_value, lr, segment.inputs.size)
        self.learner.update(result.finite)
        self.states = after if result.finite else before
        self.counters.add_step(segment.inputs.size, segment.epoch, result.finite, bits_per_byte)
        self._tick()
        seconds = time.monotonic() - started
        self.pace.took_step(seconds)
        budget_used = self.pace.progress(self.counters).budget
        self.journal.log_step(self.counters, result, seconds, budget_used)
        if self.counters.skipped_in_a_row >= self.recipe.train.max_skipped_steps:
            raise TrainingError(
                f"{self.counters.skipped_in_a_row} steps in a row had no finite loss and gradient, up "
                f"to step {self.counters.step}: lower optim.lr, lengthen optim.warmup or use "
                f"train.dtype fp32. The last checkpoint is untouched."
            )

    def validate(self) -> float:
        """Score the validation text, and save the model if it is the best; return bits per byte.

        A signal ends it at once; a score of a part is not recorded, and the validation stays due.
        """
        counters, started = self.counters, time.monotonic()
        self._tick()
        self.journal.note(f"step {counters.step:,} · validating")
        lengths = self.pace.lengths(counters, time.monotonic)
        lengths = itertools.takewhile(lambda _: not self._stopped.is_set(), lengths)
        bits, rows = self.validation_text.score(self.learner, lengths)
        seconds = time.monotonic() - started
        counters.seconds_validating += seconds
        self._tick()
        if self._stopped.is_set():
            self.pace.postpone_validation()
            return bits
        self._validated_step = counters.step
        self.pace.validated(rows, seconds, counters.seconds)
        is_best = counters.add_validation(bits)
        self.journal.log_validation(counters)
        if is_best:
            self._save_best()
        return bits

    # -------------------------------------------------------------------------- parts of the run

    def _reason_to_end(self) -> str | None:
        """Return why no step follows; None if one does."""
        self._tick()
        patience = self.recipe.train.early_stop
        if self.pace.is_over(self.counters):
            return "budget used up"
        if 0 < patience <= self.counters.validations_without_best:
            return f"no improvement in {patience} validations"
        return None

    def _validate_and_save_if_due(self) -> None:
        """Validate, save and announce the plan, if it is time for them."""
        if self.pace.checkpoint_bytes == 0:  # now there are optimiser moments and full states
            state = tensor_bytes(self._state_dict())
            self.pace.checkpoint_bytes = self.pace.model_bytes + state
        if self.pace.validation_due(self.counters):
            self.validate()
        # The last step is saved at the end of the run, after it is validated.
        is_last = self.pace.progress(self.counters).budget >= 1
        if self.pace.checkpoint_due(self.counters) and not is_last:
            self.save()
        if not self._plan_announced:
            plan = self.pace.plan_record(self.counters, self.validation_text.num_lanes)
            if plan is not None:
                self.journal.log("plan", self.counters, **plan)
                self._plan_announced = True

    def _validate_if_stale(self) -> None:
        """Validate unless there is nothing to score, or no step was taken since the last validation."""
        if self.validation_text.can_be_scored and self._validated_step != self.counters.step:
            self.validate()

    def _tick(self) -> None:
        self.counters.seconds = time.monotonic() - self._started

    # ------------------------------------------------------------------------- parts of a step

    def _to_device(self, tokens: Tokens) -> Tensor:
        return torch.from_numpy(tokens.astype("int64")).to(self.precision.device)

    def _lr_factor(self, segment: Segment) -> float:
        """Return the factor on the learning rate for a step over `segment`.

        The duration of the step is not known yet: in a time budget it is taken as 0.
        """
        self._tick()
        training, after = self.pace.training(self.counters), replace(self.counters)
        after.add_step(segment.inputs.size, segment.epoch, finite=True)
        before = self.counters.progress(training)
        return lr_factor(self.recipe.optim, before, after.progress(training))

    # ------------------------------------------------------------------------ saving and resuming

    def save(self) -> None:
        """Write a checkpoint, unless this step has one, and let `last` point to it.

        Raises:
            CheckpointError: It could not be written; earlier ones are untouched.
        """
        self._tick()
        started = time.monotonic()
        now = self.counters.step, self._validated_step
        if self.run_folder.last_checkpoint() is None or self._saved != now:
            self.journal.note(f"step {self.counters.step:,} · saving")
            folder = self.run_folder.next_checkpoint(self.counters.step)
            state, card = self._state_dict(), self.journal.card(self.counters)
            best_step, best = self._saved_best
            same = best if best_step == self.counters.step else None
            with self.learner.averaged():
                save_checkpoint(folder, self.model, self.corpus.tokenizer, card, state, same)
            self.run_folder.mark_last(folder)
            self.pace.saved_checkpoint(self._saved_since(started), self.counters.seconds)
        self._saved = now

    def _save_best(self) -> None:
        """Write a model folder, and let `best` point to it.

        Raises:
            CheckpointError: It could not be written; the previous one is untouched.
        """
        started = time.monotonic()
        folder = self.run_folder.next_best(self.counters.step)
        with self.learner.averaged():
            save_model(folder, self.model, self.corpus.tokenizer, self.journal.card(self.counters))
        self.run_folder.mark_best(folder)
        self.pace.saved_model(self._saved_since(started), self.counters.seconds)
        self._saved_best = self.counters.step, folder

    def _saved_since(self, started: float) -> float:
        """Count the seconds since `started` as spent on saving, and return them."""
        self._tick()
        seconds = time.monotonic() - started
        self.counters.seconds_saving += seconds
        return seconds

    def resume(self) -> None:
        """Continue from the run's last checkpoint, or from the start if there is none.

        Raises:
            CheckpointError: It is incomplete or altered, or has another shape or vocabulary.
            DataError: It was written with another corpus.
        """
        folder = self.run_folder.last_checkpoint()
        if folder is None:
            self.run_folder.rewind_metrics(-1)
            return
        load_weights(self.model, folder)
        state = load_trainer_state(folder, self.precision.device)
        if state["corpus"] != self.corpus.digest:
            raise DataError(
                f"the run {self.run_folder.path} was trained on another text (digest "
                f"{state['corpus'][:12]}…, this one has {self.corpus.digest[:12]}…): restore the "
                "text, or begin a new run"
            )
        try:
            self._load_state_dict(state)
        except (KeyError, ValueError, TypeError, RuntimeError) as failure:
            raise CheckpointError(f"{folder} does not fit this run: {failure!r}") from failure
        self.run_folder.rewind_metrics(self.counters.step)

    def _state_dict(self) -> dict[str, Any]:
        return {
            "counters": self.counters.to_dict(),
            **self.pace.state_dict(),
            "validated_step": self._validated_step,
            "corpus": self.corpus.digest,
            "lanes": self.lanes.state_dict(),
            **self.learner.state_dict(),
            "states": [state.to_tensors() for state in self.states],
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.counters = Counters.from_dict(state["counters"])
        self._validated_step = state["validated_step"]
        self._saved = self.counters.step, self._validated_step
        text, rows = self.validation_text, 0
        if self.counters.last_bits_per_byte is not None:
            rows = len(text.tokens) // text.num_lanes - 1
        self.pace.load_state_dict(state, self.counters, rows)
        self.lanes.load_state_dict(state["lanes"])
        self.learner.load_state_dict(state)
        layers = self.recipe.model.num_layers
        self.states = [RecurrentState.from_tensors(tensors, layers) for tensors in state["states"]]


def train_tokens(corpus: Corpus, data: DataConfig) -> Tokens:
    """Return the tokens that a run trains on: the train split, or its first `max_train_tokens`."""
    return corpus.split("train").tokens[: data.max_train_tokens or None]
