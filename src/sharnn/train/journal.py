"""What a run records about itself: records for its loggers, and the card of its models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sharnn import machine
from sharnn.checkpoint import VALID_UTF8, RunFolder
from sharnn.config import Recipe
from sharnn.data.corpus import Corpus
from sharnn.train.counters import Counters
from sharnn.train.estimate import used_memory_bytes
from sharnn.train.logger import RunLogger
from sharnn.train.precision import Precision


@dataclass(frozen=True)
class StepResult:
    """What a training step computed.

    Attributes:
        nats: Mean loss of its tokens.
        bits_per_byte: The same by byte of the text.
        grad_norm: Norm of the gradient before clipping.
        lr: Learning rate.
        num_tokens: Tokens over all lanes.
    """

    nats: float
    bits_per_byte: float
    grad_norm: float
    lr: float
    num_tokens: int

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are finite; otherwise the step is skipped."""
        return math.isfinite(self.nats) and math.isfinite(self.grad_norm)


class Journal:
    """Sends the records of a run to its loggers, and describes its models.

    Attributes:
        loggers: Receive every record.

    Args:
        recipe: The settings.
        corpus: The text.
        run: The folder; its facts are read for the start record and for cards.
        precision: Device and dtype.
    """

    def __init__(
        self, recipe: Recipe, corpus: Corpus, run: RunFolder, precision: Precision
    ) -> None:
        self._recipe, self._corpus, self._run, self._precision = recipe, corpus, run, precision
        self.loggers: list[RunLogger] = []

    def log(self, kind: str, counters: Counters, **values: Any) -> None:
        """Send a record to the loggers, with the progress of the run."""
        progress = {
            "step": counters.step,
            "tokens_seen": counters.tokens_seen,
            "epoch": round(counters.epoch, 6),
            "seconds": round(counters.seconds, 3),
        }
        for logger in self.loggers:
            logger.log({"kind": kind, **progress, **values})

    def note(self, doing: str) -> None:
        """Show what the run is doing now, which is not recorded."""
        for logger in self.loggers:
            logger.note(doing)

    def announce_stop(self) -> None:
        """Show that a signal was received."""
        for logger in self.loggers:
            logger.note(
                "stopping: saving after this step (a second Ctrl-C stops at once and loses what was "
                "trained since the last checkpoint)",
                lasting=True,
            )

    def log_start(self, counters: Counters, num_parameters: int) -> None:
        """Record the versions, the machine, and what the run trains on."""
        train = self._recipe.train
        self.log(
            "start",
            counters,
            **machine.versions(),
            machine=machine.describe(self._precision.device),
            device=str(self._precision.device),
            dtype=self._precision.name,
            num_parameters=num_parameters,
            corpus=self._corpus.name,
            corpus_digest=self._corpus.digest,
            budget=train.budget,
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            init_from=train.init_from,
            init_digest=self._run.facts().initial_digest,
            resumed=counters.step > 0,
        )

    def log_step(
        self, counters: Counters, result: StepResult, seconds: float, budget_used: float
    ) -> None:
        """Record a training step.

        Args:
            counters: After the step.
            result: What it computed.
            seconds: Its duration.
            budget_used: Share of the budget for training.
        """
        left = counters.seconds * (1 - budget_used) / budget_used if budget_used > 0 else None
        self.log(
            "train",
            counters,
            nats=result.nats if result.finite else None,
            bits_per_byte=result.bits_per_byte if result.finite else None,
            smooth=counters.smooth,
            best_bits_per_byte=counters.best_bits_per_byte,
            lr=result.lr,
            grad_norm=result.grad_norm if result.finite else None,
            tokens_per_second=round(result.num_tokens / seconds, 1),
            skipped_steps=counters.skipped_steps,
            memory_bytes=used_memory_bytes(self._precision.device),
            budget_used=min(budget_used, 1.0),
            seconds_left=left,
        )

    def log_validation(self, counters: Counters) -> None:
        """Record the latest validation."""
        self.log(
            "valid",
            counters,
            bits_per_byte=counters.last_bits_per_byte,
            best_bits_per_byte=counters.best_bits_per_byte,
        )

    def log_end(self, counters: Counters, reason: str) -> None:
        """Record why the run ended, and the time that it did not spend on training."""
        self.log(
            "end",
            counters,
            reason=reason,
            best_bits_per_byte=counters.best_bits_per_byte,
            seconds_validating=round(counters.seconds_validating, 3),
            seconds_saving=round(counters.seconds_saving, 3),
        )

    def card(self, counters: Counters) -> dict[str, Any]:
        """Return the facts for the card of a model that is saved now, name to value."""
        train, bits = self._recipe.train, counters.last_bits_per_byte
        origin = {}
        if train.init_from is not None:
            digest = self._run.facts().initial_digest
            origin = {"fine-tuned from": train.init_from, "initial weights": digest}
        return {
            **origin,
            "corpus": self._corpus.name,
            "corpus digest": self._corpus.digest,
            **({} if self._corpus.is_utf8 else {VALID_UTF8: False}),
            "steps": counters.step,
            "tokens seen": counters.tokens_seen,
            "training seconds": round(counters.seconds, 1),
            "valid bits per byte (in lanes)": None if bits is None else round(bits, 4),
            "optimiser": self._recipe.optim.name,
            "dtype": self._precision.name,
            "seed": train.seed,
            "machine": machine.describe(self._precision.device),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        }
