"""The training loop.

Legend: B lanes · G groups of lanes (`grad_accum_steps`) · T tokens of a segment.

A step reads one segment in all lanes, a group of lanes after the other, adds up their gradients and
moves the weights once. Each group carries its own state to the next segment, cut off from its history
(truncated back-propagation through time); where the text begins again the states are empty again.
"""

from __future__ import annotations

import contextlib
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sharnn
from sharnn.amounts import Amount, Progress
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
from sharnn.evaluate import score_lanes
from sharnn.evaluate.score import LN2
from sharnn.model import LanguageModel, RecurrentState
from sharnn.optim import WeightAverage, lr_factor, make_optimizers
from sharnn.train.counters import Counters
from sharnn.train.estimate import VALIDATION_LANES, training_slots, used_memory_bytes
from sharnn.train.logger import RunLogger
from sharnn.train.plan import Pace
from sharnn.train.precision import Precision


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        reason: `budget used up`, `no better for … validations` or `interrupted`.
        counters: Where it stands.
    """

    reason: str
    counters: Counters

    @property
    def interrupted(self) -> bool:
        """Whether it can go on."""
        return self.reason == "interrupted"


class Trainer:
    """Fits a model to a corpus; all that it is survives a kill at any point.

    Args:
        recipe: All settings, with the model's vocabulary resolved.
        corpus: Its train split is read, its valid split scored, unless that is too short.
        run: Where checkpoints go.
        precision: Device and dtype.
        loggers: Take the records.
        clock: Returns seconds; budgets in time follow it.
        initial_digest: SHA-256 of the weights of `train.init_from`, for the model's card.

    Raises:
        DataError: The text is too short for its lanes.
    """

    def __init__(
        self,
        recipe: Recipe,
        corpus: Corpus,
        run: RunFolder,
        precision: Precision,
        loggers: Sequence[RunLogger] = (),
        clock: Callable[[], float] = time.monotonic,
        initial_digest: str | None = None,
    ) -> None:
        self.recipe, self.corpus, self.run_folder = recipe, corpus, run
        self.precision, self.loggers = precision, list(loggers)
        precision.prepare()
        torch.manual_seed(recipe.train.seed)
        self.model = LanguageModel(recipe.model).to(precision.device)
        if self.model.ngrams is not None:
            self.model.ngrams.learn_vocabulary(
                train_tokens(corpus, recipe.data), recipe.model.ngram_min_count
            )
        self.model.recompute = recipe.train.activation_checkpointing
        self.optimizers = make_optimizers(self.model, recipe.optim)
        share = recipe.optim.average
        self.average = WeightAverage(self.model, share) if share > 0 else None
        self.scaler = precision.grad_scaler()
        self.lanes = LaneStream(
            train_tokens(corpus, recipe.data),
            recipe.data.num_lanes,
            recipe.data.segment_length,
            recipe.data.random_segments,
            recipe.train.seed,
            recipe.data.block_length,
        )
        self.states = self._fresh_states()
        self.counters = Counters()
        train = corpus.split("train")
        self.bytes_per_token = train.num_bytes / max(train.num_tokens, 1)
        self.validates = can_validate(corpus)
        valid = corpus.split("valid")
        self._valid_tokens = valid.tokens[: recipe.train.validation_tokens or valid.num_tokens]
        self._valid_lanes = max(min(VALIDATION_LANES, len(self._valid_tokens) // 2), 1)
        self._rows_scored = 0  # of each of these lanes, in the latest validation
        self.pace = Pace(
            recipe.train,
            recipe.data.num_lanes * recipe.data.segment_length,
            len(self._valid_tokens) if self.validates else 0,
        )
        self._initial_digest = initial_digest
        self._told_plan = False
        self._validated_step = -1
        self._saved: tuple[int, int] | None = None  # step and validated step of the last checkpoint
        self._saved_best: tuple[int, Path | None] = -1, None  # step and folder of the best model
        self._clock = clock
        self._started = clock()

    # ------------------------------------------------------------------------------- the run

    def run(self) -> Outcome:
        """Train until the budget is used up, no progress is made or Ctrl-C is pressed.

        Raises:
            TrainingError: Too many steps in a row had no finite loss and gradient.
            CheckpointError: A checkpoint could not be written; those before it are untouched.
        """
        self._log("start", **self._facts())
        self._started = self._clock() - self.counters.seconds
        self.pace.model_bytes = tensor_bytes(self.model.state_dict())
        with _stop_signals() as stopped:
            if self.recipe.train.init_from is not None and self.counters.step == 0:
                self._keep_initial()
            while not (used_up := self._used_up()) and not self._gave_up() and not stopped.is_set():
                self.step()
                if self.pace.checkpoint_bytes == 0:
                    self._weigh_checkpoint()
                if self.pace.validation_due(self._progress(), self.counters.spent):
                    self.validate()
                progress = self._progress()
                if self.pace.checkpoint_due(progress, self.counters.spent) and progress.budget < 1:
                    self.save()  # the last step is saved below, once it is validated
                self._tell_plan()
            if not stopped.is_set() and self.validates and self.validation_is_stale:
                self.validate()
            self.save()
        reason = "budget used up"
        if stopped.is_set():
            reason = "interrupted"
        elif not used_up:
            reason = f"no better for {self.recipe.train.early_stop} validations"
        self._tick()
        self._log(
            "end",
            reason=reason,
            best_bits_per_byte=self.counters.best_bits_per_byte,
            seconds_validating=round(self.counters.seconds_validating, 3),
            seconds_saving=round(self.counters.seconds_saving, 3),
        )
        return Outcome(reason, self.counters)

    def step(self) -> None:
        """Read one segment in all lanes and move the weights once.

        A step without a finite loss and gradient moves nothing and keeps the states before it, but for
        the text that was read, which is recalled all the same.
        """
        started = self._clock()
        segment = self.lanes.next_segment()
        before = self._fresh_states() if segment.first else self.states
        lr = self._set_learning_rates(segment)
        nats, after = self._accumulate_gradients(segment, before)
        grad_norm = self._clip_gradients()
        # The one place where the host waits for the device.
        nats_value, norm_value = torch.stack([nats, grad_norm]).tolist()
        finite = _is_finite(nats_value) and _is_finite(norm_value)
        if finite:
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
            if self.average is not None:
                self.average.update()
        self.states = after if finite else before
        if self.scaler.is_enabled():
            self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._count(segment, finite)
        seconds = self._clock() - started
        self.pace.took_step(seconds)
        self._log_step(nats_value, norm_value, lr, finite, segment, seconds)
        if self.counters.skipped_in_a_row >= self.recipe.train.max_skipped_steps:
            raise TrainingError(
                f"{self.counters.skipped_in_a_row} steps in a row had no finite loss and gradient, up "
                f"to step {self.counters.step}: lower optim.lr, lengthen optim.warmup or use "
                f"train.dtype fp32. The last checkpoint is untouched."
            )

    def validate(self) -> float:
        """Score the valid split in lanes and save the model if it is the best; return bits per byte."""
        counters, started = self.counters, self._clock()
        bits = self._score_valid()
        self._validated_step = counters.step
        seconds = self._clock() - started
        counters.seconds_validating += seconds
        self._tick()
        self.pace.validated(self._rows_scored, seconds, counters.seconds)
        finite = _is_finite(bits)
        best = counters.best_bits_per_byte
        is_best = finite and (best is None or bits < best)
        counters.last_bits_per_byte = bits if finite else None
        counters.validations_without_best = 0 if is_best else counters.validations_without_best + 1
        if is_best:
            counters.best_bits_per_byte, counters.best_step = bits, counters.step
        self._log(
            "valid",
            bits_per_byte=counters.last_bits_per_byte,
            best_bits_per_byte=counters.best_bits_per_byte,
        )
        if is_best:
            self._save_best()
        return bits

    def _keep_initial(self) -> None:
        """Score and save what a fine-tuning run begins with.

        It may stay the best, and a resume needs the model that it came from no more.
        """
        if self.validates and self.validation_is_stale:
            self.validate()
        self.save()

    @property
    def validation_is_stale(self) -> bool:
        """Whether steps were taken since the last validation, or there was none."""
        return self._validated_step != self.counters.step

    # ------------------------------------------------------------------------- parts of a step

    def _accumulate_gradients(
        self, segment: Segment, states: list[RecurrentState]
    ) -> tuple[Tensor, list[RecurrentState]]:
        """Return the mean nats of the step and the next states; gradients are left on the weights."""
        total = torch.zeros((), device=self.precision.device)
        after = []
        inputs_BT = torch.from_numpy(segment.inputs.astype("int64")).to(self.precision.device)
        targets_BT = torch.from_numpy(segment.targets.astype("int64")).to(self.precision.device)
        groups = len(states)
        pairs = zip(inputs_BT.chunk(groups), targets_BT.chunk(groups), states, strict=True)
        for inputs, targets, state in pairs:
            with self.precision.autocast():
                nats_BT, state = self.model.nats(inputs, targets, state, consume=True)
            loss = nats_BT.mean() / groups
            self.scaler.scale(loss).backward()
            total += loss.detach()
            after.append(state.detach())
        return total, after

    def _clip_gradients(self) -> Tensor:
        """Scale the gradient down to `grad_clip`; return its norm before that."""
        if self.scaler.is_enabled():
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
        limit = self.recipe.optim.grad_clip or float("inf")
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    def _set_learning_rates(self, segment: Segment) -> float:
        """Give every group its rate for this step; return the first one's.

        How long the step will take is not known: of a budget in time, it begins and ends at one.
        """
        self._tick()
        training = self._training()
        before = self.counters.progress(training)
        after = Counters(
            self.counters.step + 1,
            self.counters.tokens_seen + segment.inputs.size,
            segment.epoch,
            self.counters.seconds,
        ).progress(training)
        factor = lr_factor(self.recipe.optim, before, after)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
        return self.optimizers[0].param_groups[0]["lr"]

    def _count(self, segment: Segment, finite: bool) -> None:
        counters = self.counters
        counters.step += 1
        counters.tokens_seen += segment.inputs.size
        counters.epoch = segment.epoch
        counters.skipped_steps += not finite
        counters.skipped_in_a_row = 0 if finite else counters.skipped_in_a_row + 1
        self._tick()

    def _fresh_states(self) -> list[RecurrentState]:
        groups = self.recipe.train.grad_accum_steps
        lanes, slots = self.recipe.data.num_lanes // groups, training_slots(self.recipe.model)
        return [self.model.initial_state(lanes, slots) for _ in range(groups)]

    def _tick(self) -> None:
        self.counters.seconds = self._clock() - self._started

    def _training(self) -> Amount:
        """Return the budget without what its end is kept free for."""
        plain = self.counters.progress(self.pace.budget)
        return self.pace.training(plain, self.counters.spent)

    def _progress(self) -> Progress:
        """Return how far training is."""
        return self.counters.progress(self._training())

    def _used_up(self) -> bool:
        self._tick()
        return self.pace.is_over(self._progress(), self.counters.spent)

    def _weigh_checkpoint(self) -> None:
        """Find out how many bytes a checkpoint has, once there are states of lanes and moments."""
        state = tensor_bytes(self._state_dict())
        self.pace.checkpoint_bytes = self.pace.model_bytes + state

    def _tell_plan(self) -> None:
        """Log how often the run will validate and save, once, when that is known."""
        if not self._told_plan:
            facts = self.pace.facts(self._progress(), self.counters.spent, self._valid_lanes)
            if facts is not None:
                self._log("plan", **facts)
                self._told_plan = True

    def _gave_up(self) -> bool:
        patience = self.recipe.train.early_stop
        return patience > 0 and self.counters.validations_without_best >= patience

    def _score_valid(self) -> float:
        split, lanes = self.corpus.split("valid"), self._valid_lanes
        self._tick()
        lengths = self.pace.lengths(self._progress(), self.counters.spent, self._clock)
        self.model.eval()
        with self._shown_weights(), torch.inference_mode(), self.precision.autocast():
            nats, count = score_lanes(self.model, self._valid_tokens, lanes, lengths)
        self.model.train()
        self._rows_scored = count // lanes
        bytes_per_token = split.num_bytes / split.num_tokens
        return nats / LN2 / (count * bytes_per_token)

    def _shown_weights(self) -> contextlib.AbstractContextManager[None]:
        """Let the model have, inside of a `with`, the weights that are scored and saved."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    # ----------------------------------------------------------------------- save and go on

    def save(self) -> None:
        """Write a checkpoint of this very step, and let `last` mean it.

        Raises:
            CheckpointError: It could not be written; those before it are untouched.
        """
        self._tick()
        started = self._clock()
        folder, now = self.run_folder.last_checkpoint(), (self.counters.step, self._validated_step)
        if folder is None or self._saved != now:
            folder = self.run_folder.next_checkpoint(self.counters.step)
            state, tokenizer = self._state_dict(), self.corpus.tokenizer
            step, same = self._saved_best
            same = same if step == self.counters.step else None
            with self._shown_weights():
                save_checkpoint(folder, self.model, tokenizer, self._card(), state, same)
            self.run_folder.mark_last(folder)
            self.pace.saved_checkpoint(self._saved_since(started), self.counters.seconds)
        self._saved = now

    def _save_best(self) -> None:
        """Write the model of this very step, and let `best` mean it.

        Raises:
            CheckpointError: It could not be written; the one before it is untouched.
        """
        started = self._clock()
        folder = self.run_folder.next_best(self.counters.step)
        with self._shown_weights():
            save_model(folder, self.model, self.corpus.tokenizer, self._card())
        self.run_folder.mark_best(folder)
        self.pace.saved_model(self._saved_since(started), self.counters.seconds)
        self._saved_best = self.counters.step, folder

    def _saved_since(self, started: float) -> float:
        """Count the seconds since then as spent on saving, and return them."""
        self._tick()
        seconds = self._clock() - started
        self.counters.seconds_saving += seconds
        return seconds

    def resume(self) -> None:
        """Go on from the run's last checkpoint, or from the start where there is none.

        Raises:
            CheckpointError: It is cut or altered, or was written with another shape or vocabulary.
            DataError: The corpus is not the one it was written with.
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
        generators = {"cpu": torch.get_rng_state()}
        if self.precision.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.precision.device)
        return {
            "counters": self.counters.to_dict(),
            **self.pace.state_dict(),
            "validated_step": self._validated_step,
            "corpus": self.corpus.digest,
            "lanes": self.lanes.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "generators": generators,
            "states": [state.to_tensors() for state in self.states],
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.counters = Counters.from_dict(state["counters"])
        progress = self.counters.progress(self.pace.budget)
        was_validated = self.counters.last_bits_per_byte is not None
        rows = len(self._valid_tokens) // self._valid_lanes - 1 if was_validated else 0
        self.pace.load_state_dict(state, progress, rows)
        self._validated_step = state["validated_step"]
        self._saved = self.counters.step, self._validated_step
        self.lanes.load_state_dict(state["lanes"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            saved["state"] = {int(index): values for index, values in saved["state"].items()}
            optimizer.load_state_dict(saved)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        layers = self.recipe.model.num_layers
        self.states = [RecurrentState.from_tensors(tensors, layers) for tensors in state["states"]]
        torch.set_rng_state(state["generators"]["cpu"].cpu())
        if self.precision.device.type == "cuda" and "cuda" in state["generators"]:
            torch.cuda.set_rng_state(state["generators"]["cuda"].cpu(), self.precision.device)

    # ---------------------------------------------------------------------------- records

    def _log(self, kind: str, **values: Any) -> None:
        counters = self.counters
        place = {
            "step": counters.step,
            "tokens_seen": counters.tokens_seen,
            "epoch": round(counters.epoch, 6),
            "seconds": round(counters.seconds, 3),
        }
        for logger in self.loggers:
            logger.log({"kind": kind, **place, **values})

    def _log_step(
        self,
        nats: float,
        grad_norm: float,
        lr: float,
        finite: bool,
        segment: Segment,
        seconds: float,
    ) -> None:
        used = self._progress().budget
        left = self.counters.seconds * (1 - used) / used if used > 0 else None
        self._log(
            "train",
            nats=nats if finite else None,
            bits_per_byte=nats / LN2 / self.bytes_per_token if finite else None,
            best_bits_per_byte=self.counters.best_bits_per_byte,
            lr=lr,
            grad_norm=grad_norm if finite else None,
            tokens_per_second=round(segment.inputs.size / seconds, 1),
            skipped_steps=self.counters.skipped_steps,
            memory_bytes=used_memory_bytes(self.precision.device),
            budget_used=min(used, 1.0),
            seconds_left=left,
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "version": sharnn.__version__,
            "torch": torch.__version__,
            "machine": _machine(self.precision.device),
            "device": str(self.precision.device),
            "dtype": self.precision.name,
            "num_parameters": self.model.num_parameters(),
            "corpus": self.corpus.name,
            "corpus_digest": self.corpus.digest,
            "budget": self.recipe.train.budget,
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "init_from": self.recipe.train.init_from,
            "init_digest": self._initial_digest,
            "resumed": self.counters.step > 0,
        }

    def _card(self) -> dict[str, Any]:
        counters, train = self.counters, self.recipe.train
        bits = counters.last_bits_per_byte
        origin = {"fine-tuned from": train.init_from, "initial weights": self._initial_digest}
        return {
            **(origin if train.init_from is not None else {}),
            "corpus": self.corpus.name,
            "corpus digest": self.corpus.digest,
            "steps": counters.step,
            "tokens seen": counters.tokens_seen,
            "training seconds": round(counters.seconds, 1),
            "valid bits per byte (in lanes)": None if bits is None else round(bits, 4),
            "optimiser": self.recipe.optim.name,
            "dtype": self.precision.name,
            "seed": train.seed,
            "machine": _machine(self.precision.device),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        }


def train_tokens(corpus: Corpus, data: DataConfig) -> Tokens:
    """Return what a run reads of the train split: all of it, or `max_train_tokens` from its start."""
    return corpus.split("train").tokens[: data.max_train_tokens or None]


def can_validate(corpus: Corpus) -> bool:
    """Whether the valid split has a token with a successor; a very short text's has not."""
    return corpus.split("valid").num_tokens >= 2


def _is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    """Return the processor's name where the system tells it, else its kind."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C, or a polite kill, into a wish to stop after this step; a second stops."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, frame: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
