"""When a run validates, saves and ends.

In a time budget, validating and saving together take at most `OVERHEAD`. Their costs are measured when
they first happen. From the costs follow how often they happen and how many tokens a validation scores.
Before that, the cost of saving is estimated from the number of bytes, and the first validation reads
until its time is up. Later validations read the same tokens, so all scores of a run are comparable.

The end of the budget is reserved for the last validation and the last checkpoint. This module reads no
clock: it computes with seconds that were measured elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sharnn.amounts import Amount, Progress
from sharnn.config import ADAPTED, TrainConfig
from sharnn.train.counters import Counters
from sharnn.train.plan import (
    Costs,
    Plan,
    Target,
    growing_lengths,
    lengths_of,
    lengths_until,
    make_plan,
)

#: Share of a time budget that validating and saving may take together.
OVERHEAD = 0.05
#: Share of that to plan with, because later validations and checkpoints may take longer than measured.
_PLANNED = 0.9
#: Tokens that the first validation should score before more validations are planned.
_FEW_TOKENS = 8192
#: Assumed speed of saving before it was measured: this many bytes, with digests, in this many seconds.
_ASSUMED_BYTES, _ASSUMED_SECONDS = 30e6, 0.1
#: Factor by which saving may take longer than that.
_CHECKPOINT_MARGIN = 3.0
#: Time for scoring a token relative to training on it: one forward pass of three.
_FORWARD_SHARE = 1 / 3
#: Factor by which scoring may take longer than that.
_SCORING_MARGIN = 2.0
#: Steps after which a plan with a single validation is announced.
_STEPS_TO_ANNOUNCE = 3
#: Weight of the latest step in the running mean of the seconds of a step.
_LATEST = 0.2
#: Tolerance for shares that rounding leaves just below a whole number: 0.3 / 0.1 is less than 3.
_ROUNDING = 1e-9


@dataclass
class Cadence:
    """Decides when something that happens at an interval is due.

    Attributes:
        every: The interval.
        count: Number of intervals that have passed.
    """

    every: Amount
    count: int = 0

    def due(self, progress: Progress) -> bool:
        """Return whether an interval has ended since the last call, and count it."""
        passed = self._passed(progress)
        if passed <= self.count:
            return False
        self.count = passed
        return True

    def resume(self, count: int, progress: Progress) -> None:
        """Continue from a saved count; after the budget was raised, fewer intervals have passed."""
        self.count = min(count, self._passed(progress))

    def _passed(self, progress: Progress) -> int:
        return math.floor(self.every.share_of(progress) + _ROUNDING)


@dataclass(frozen=True)
class Measured:
    """Measured costs of a run; saved in checkpoints.

    Attributes:
        step: Seconds of a step, a running mean.
        rows: Tokens of a lane that every validation scores; 0 before the first.
        scoring: Seconds of the latest validation.
        model: Seconds of saving the latest best model; 0 before the first.
        checkpoint: Seconds of saving the latest checkpoint; 0 before the first.
        validated: The run's seconds after the latest validation.
        saved: The run's seconds after the latest checkpoint.
        validations: Number of validations.
        checkpoints: Number of checkpoints.
    """

    step: float = 0.0
    rows: int = 0
    scoring: float = 0.0
    model: float = 0.0
    checkpoint: float = 0.0
    validated: float = 0.0
    saved: float = 0.0
    validations: int = 0
    checkpoints: int = 0


class Pace:
    """Decides when a run validates, saves and ends.

    A budget in steps, tokens or epochs is used up completely, and the recipe's intervals are kept. In a
    time budget the settings that `train.adapt` lists are upper limits.

    Attributes:
        budget: Of the run.
        measured: Costs so far.
        model_bytes: Size of a saved model.
        checkpoint_bytes: Size of a checkpoint; 0 while unknown.

    Args:
        train: The recipe's settings.
        step_tokens: Tokens of a step over all lanes.
        validation_tokens: Tokens that a validation can score at most; 0 if the text is too short.
    """

    def __init__(self, train: TrainConfig, step_tokens: int, validation_tokens: int) -> None:
        self.budget = Amount.parse(train.budget, "train.budget")
        self.measured = Measured()
        self.model_bytes = self.checkpoint_bytes = 0
        self._timed = self.budget.unit == "seconds"
        self._adapt = frozenset(train.adapt if self._timed else ())
        self._validating = Cadence(Amount.parse(train.validate_every, "train.validate_every"))
        self._saving = Cadence(Amount.parse(train.checkpoint_every, "train.checkpoint_every"))
        self._step_tokens, self._validation_tokens = step_tokens, validation_tokens

    # ------------------------------------------------------------------------------- measurements

    def took_step(self, seconds: float) -> None:
        """Record the seconds of a step."""
        mean = self.measured.step
        mean = seconds if mean == 0 else mean + _LATEST * (seconds - mean)
        self.measured = replace(self.measured, step=mean)

    def validated(self, rows: int, seconds: float, now: float) -> None:
        """Record a validation: the tokens of a lane that it scored, and its seconds."""
        times = self.measured.validations + 1
        self.measured = replace(
            self.measured, rows=rows, scoring=seconds, validated=now, validations=times
        )

    def saved_model(self, seconds: float, now: float) -> None:
        """Record the seconds of saving a best model."""
        self.measured = replace(self.measured, model=seconds, validated=now)

    def saved_checkpoint(self, seconds: float, now: float) -> None:
        """Record the seconds of saving a checkpoint."""
        times = self.measured.checkpoints + 1
        self.measured = replace(self.measured, checkpoint=seconds, saved=now, checkpoints=times)

    def state_dict(self) -> dict[str, Any]:
        """Return JSON values that a resume needs."""
        counts = [self._validating.count, self._saving.count]
        return {"cadences": counts, "measured": asdict(self.measured)}

    def load_state_dict(self, state: Mapping[str, Any], counters: Counters, rows: int) -> None:
        """Continue from `state_dict`.

        Args:
            state: From `state_dict`; runs of earlier versions have no measurements.
            counters: Of the run at that point.
            rows: Tokens of a lane that validations of a run of an earlier version scored; 0 before the
                first.
        """
        progress = counters.progress(self.budget)
        cadences = self._validating, self._saving
        for cadence, count in zip(cadences, state["cadences"], strict=True):
            cadence.resume(count, progress)
        now = counters.seconds
        measured = Measured(**state.get("measured", {"rows": rows, "validated": now}))
        # The checkpoint that the run resumes from had not been counted when it was written.
        self.measured = replace(measured, saved=now, checkpoints=measured.checkpoints + 1)

    # ---------------------------------------------------------------------------------- decisions

    def training(self, counters: Counters) -> Amount:
        """Return when training ends: the budget without the time reserved at its end."""
        if not self._timed:
            return self.budget
        seconds = self.budget.value - self._reserve(counters)
        return Amount(max(seconds, 0.01 * self.budget.value), "seconds")

    def progress(self, counters: Counters) -> Progress:
        """Return the progress of the run; its `budget` is the share of `training`."""
        return counters.progress(self.training(counters))

    def is_over(self, counters: Counters) -> bool:
        """Return whether training ends here; in a time budget, also if a step would not end in time."""
        progress = self.progress(counters)
        if progress.budget >= 1 or not self._timed or counters.step == 0:
            return progress.budget >= 1
        after = replace(progress, seconds=progress.seconds + self.measured.step)
        return self.training(counters).share_of(after) > 1

    def validation_due(self, counters: Counters) -> bool:
        """Return whether to validate before the next step; the last validation is not included."""
        if self._validation_tokens == 0:
            return False
        if "validate_every" not in self._adapt:
            return self._validating.due(self.progress(counters))
        return self._passed(self.measured.validated, self.plan(counters).validations, counters)

    def postpone_validation(self) -> None:
        """Let a validation that was interrupted be due again."""
        self._validating.count = max(self._validating.count - 1, 0)

    def checkpoint_due(self, counters: Counters) -> bool:
        """Return whether to save before the next step; the last checkpoint is not included."""
        if "checkpoint_every" not in self._adapt:
            return self._saving.due(self.progress(counters))
        return self._passed(self.measured.saved, self.plan(counters).checkpoints, counters)

    def lengths(self, counters: Counters, clock: Callable[[], float]) -> Iterator[int]:
        """Yield how many tokens of a lane the next validation reads at once, until it has read enough."""
        if self.measured.rows:
            return lengths_of(self.measured.rows)
        if "validation_tokens" not in self._adapt:
            return growing_lengths()
        return lengths_until(clock() + self.plan(counters).scoring, clock)

    def plan(self, counters: Counters) -> Plan:
        """Return what will still happen."""
        whole = self._whole(counters)
        validations = Target(0, exact="validate_every" not in self._adapt)
        if self._validation_tokens:
            validations = self._target(
                "validate_every", self._validating, whole, self.measured.validated
            )
        return make_plan(
            _PLANNED * OVERHEAD * whole.seconds - counters.spent,
            self._costs(),
            validations,
            self._target("checkpoint_every", self._saving, whole, self.measured.saved),
        )

    def plan_record(self, counters: Counters, num_lanes: int) -> dict[str, Any] | None:
        """Return the plan to announce; None while it is unknown.

        Args:
            counters: Of the run.
            num_lanes: Lanes in which validations read.
        """
        measured, plan = self.measured, self.plan(counters)
        last_only = self._timed and plan.validations <= 1 and counters.step >= _STEPS_TO_ANNOUNCE
        if not (measured.rows or last_only) or measured.step == 0:
            return None
        return {
            "validation_tokens": measured.rows * num_lanes or None,
            "validations": measured.validations + plan.validations,
            "checkpoints": measured.checkpoints + plan.checkpoints,
            "fixed": [f"train.{n}" for n in ADAPTED if self._timed and n not in self._adapt],
            "share": (counters.spent + plan.seconds) / max(self._whole(counters).seconds, 1e-9),
        }

    def _passed(self, since: float, times: int, counters: Counters) -> bool:
        """Return whether the first of `times` equal parts from `since` to the end is over."""
        end = self.training(counters).value
        return times > 1 and counters.seconds >= since + (end - since) / times

    def _reserve(self, counters: Counters) -> float:
        """Return the seconds of the last validation, its model and the last checkpoint."""
        costs = self._costs()
        if self._validation_tokens == 0:
            return costs.checkpoint
        return self.plan(counters).scoring + costs.model + costs.checkpoint

    def _whole(self, counters: Counters) -> Progress:
        """Return the progress at the end of the run, if it goes on at the same speed."""
        progress = counters.progress(self.budget)
        scale = 1 / progress.budget if progress.budget > 0 else 0.0
        values = {name: value * scale for name, value in asdict(progress).items()}
        if self._timed:
            values["seconds"] = self.budget.value
        return Progress(**{**values, "budget": 1.0})

    def _target(self, name: str, cadence: Cadence, whole: Progress, since: float) -> Target:
        """Return how often something is still due, by its interval in the recipe."""
        left = 1 - since / whole.seconds if whole.seconds else 1.0
        times = max(round(cadence.every.share_of(whole) * left), 1)
        return Target(times, name not in self._adapt)

    def _costs(self) -> Costs:
        """Return what was measured, and estimates for the rest."""
        measured = self.measured
        token = _FORWARD_SHARE * measured.step / self._step_tokens
        scoring = measured.scoring if measured.rows else None
        least = min(_FEW_TOKENS, self._validation_tokens) * token
        most = _SCORING_MARGIN * self._validation_tokens * token or math.inf
        if not scoring and (measured.rows or "validation_tokens" not in self._adapt):
            scoring = self._validation_tokens * token
        model = measured.model or self._expected_saving(self.model_bytes)
        checkpoint = measured.checkpoint or self._expected_saving(self.checkpoint_bytes)
        margin = 1.0 if measured.checkpoint else _CHECKPOINT_MARGIN
        return Costs(model, checkpoint, margin, scoring, least, most)

    def _expected_saving(self, num_bytes: int) -> float:
        """Return the expected seconds of saving, from the assumed speed and what was measured."""
        bytes_seen, seconds = _ASSUMED_BYTES, _ASSUMED_SECONDS
        for measured, size in (
            (self.measured.model, self.model_bytes),
            (self.measured.checkpoint, self.checkpoint_bytes),
        ):
            if measured:
                bytes_seen, seconds = bytes_seen + size, seconds + measured
        return num_bytes * seconds / bytes_seen
