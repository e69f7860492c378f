"""How often a run validates and saves: a budget in time is for learning.

Of a budget in time, validating and saving together take `OVERHEAD` at most. What they cost is measured
when they first happen; how often they happen follows, and so does the number of tokens that are scored.
Until then the cost of saving is estimated from bytes, and the first validation reads until its time is
up. Every later one reads what that one has read, so that all scores of a run are of the same text.

The end of the budget is kept free for the last validation and the last checkpoint. All of this is
arithmetic on seconds that were measured elsewhere: no clock is read here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sharnn.amounts import Amount, Progress
from sharnn.config import ADAPTED, TrainConfig
from sharnn.train.counters import Cadence

#: Share of a budget in time that validating and saving may take together.
OVERHEAD = 0.05
#: Share of that which is planned with: what was measured once may take longer another time.
_PLANNED = 0.9
#: Tokens that a validation should have before there are more of them.
_FEW_TOKENS = 8192
#: Validations that are planned with before it is known what one costs.
_FEW_VALIDATIONS = 4
#: A saving that was never measured: so many bytes in so many seconds, digests included.
_IMAGINED_BYTES, _IMAGINED_SECONDS = 30e6, 0.1
#: How many times as long it may take.
_DOUBT = 3.0
#: Time for scoring a token over that for training on it: a forward pass of three.
_FORWARD_SHARE = 1 / 3
#: How much longer that may take at most.
_SLOWEST = 2.0
#: Tokens of a lane that a validation reads at once, at first and at most.
_FIRST_LENGTH, _LENGTH = 16, 256
#: Steps after which it is told that there will be but one validation.
_STEPS_TO_TELL = 3
#: Share of the latest step in the running mean of a step's seconds.
_LATEST = 0.2


# ------------------------------------------------------------------------------------ arithmetic


@dataclass(frozen=True)
class Wish:
    """How often something is still to happen, the last time included.

    Attributes:
        times: As the recipe says, if there is time for it.
        exact: Whether it is to happen so often whatever it costs.
    """

    times: int
    exact: bool = False


@dataclass(frozen=True)
class Prices:
    """What things cost, in seconds.

    Attributes:
        model: Saving a best model.
        checkpoint: Saving everything.
        doubt: How many times as long that may take: above 1 until it was measured.
        scoring: Of one validation; None until there was one.
        least_scoring: What a first validation should have; less only where there is no time for it.
        most_scoring: What a first validation of all tokens will not exceed.
    """

    model: float
    checkpoint: float
    doubt: float = 1.0
    scoring: float | None = None
    least_scoring: float = 0.0
    most_scoring: float = math.inf


@dataclass(frozen=True)
class Plan:
    """What is still to happen.

    Attributes:
        validations: Times, the last included.
        checkpoints: Times, the last included.
        scoring: Seconds that one validation may take, apart from saving a best model.
        seconds: What all of it takes.
    """

    validations: int
    checkpoints: int
    scoring: float
    seconds: float


def make_plan(allowance: float, prices: Prices, validations: Wish, checkpoints: Wish) -> Plan:
    """Return the most that `allowance` seconds pay for; what happens last happens in any case.

    Checkpoints before the last get at most half of what the last ones leave, for they only serve a run
    that is killed. Every validation is taken to find a new best model.

    Args:
        allowance: What may still be spent.
        prices: In seconds.
        validations: No times where the text is too short for any.
        checkpoints: At least once.
    """
    saves = checkpoints.times
    if not checkpoints.exact:
        known = prices.least_scoring if prices.scoring is None else prices.scoring
        first = known + prices.model if validations.times else 0.0
        spare = (allowance - first - prices.checkpoint) / 2
        price = prices.doubt * prices.checkpoint
        saves = _affordable(spare + price, price, saves)
    left = allowance - saves * prices.checkpoint
    times, scoring = validations.times, prices.scoring
    if times == 0:
        return Plan(0, saves, 0.0, saves * prices.checkpoint)
    if scoring is None:
        if not validations.exact:
            most = min(times, _FEW_VALIDATIONS)
            times = _affordable(left, prices.least_scoring + prices.model, most)
        least = prices.least_scoring if validations.exact else 0.0
        scoring = max(min(left / times - prices.model, prices.most_scoring), least)
    elif not validations.exact:
        times = _affordable(left, scoring + prices.model, times)
    seconds = saves * prices.checkpoint + times * (scoring + prices.model)
    return Plan(times, saves, scoring, seconds)


def _affordable(seconds: float, price: float, most: int) -> int:
    if price <= 0:
        return most
    return max(min(math.floor(seconds / price), most), 1)


def growing_lengths() -> Iterator[int]:
    """Yield how many tokens of a lane a validation reads at once: few first, to see what they cost."""
    yield _FIRST_LENGTH
    length = _FIRST_LENGTH
    while True:
        yield length
        length = min(2 * length, _LENGTH)


def lengths_of(rows: int) -> Iterator[int]:
    """Yield the lengths that make up `rows`, the last one cut where it must be."""
    for length in growing_lengths():
        yield min(length, rows)
        rows -= length
        if rows <= 0:
            return


def lengths_until(end: float, clock: Callable[[], float]) -> Iterator[int]:
    """Yield lengths, one at least, as long as reading the next one will probably end in time.

    Args:
        end: When to end, as `clock` tells it.
        clock: Tells the time; between two lengths it goes on by what reading took.
    """
    before, length = clock(), 0
    for following in growing_lengths():
        now = clock()
        if length and now + (now - before) * following / length > end:
            return
        before, length = now, following
        yield following


# ------------------------------------------------------------------------------------ of a run


@dataclass(frozen=True)
class Measured:
    """What a run knows of its costs; kept in checkpoints.

    Attributes:
        step: Seconds of a step, a running mean.
        rows: Tokens of a lane that every validation reads, less one; 0 until the first.
        scoring: Seconds of the latest validation.
        model: Seconds of the latest saving of a best model; 0 before.
        checkpoint: Seconds of the latest saving of everything; 0 before.
        validated: The run's seconds after the latest validation.
        saved: The run's seconds after the latest saving of everything.
        validations: How often there was one.
        checkpoints: How often everything was saved.
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
    """Says when a run validates, saves and ends.

    A budget in steps, tokens or epochs is used up to its end, and the recipe's intervals hold as they
    are. In a budget in time the settings named in `train.adapt` are upper bounds.

    Args:
        train: The recipe's settings.
        step_tokens: Of a whole step.
        validation_tokens: That can be scored at most; 0 where the text is too short for any.
    """

    def __init__(self, train: TrainConfig, step_tokens: int, validation_tokens: int) -> None:
        self.budget = Amount.parse(train.budget, "train.budget")
        self.timed = self.budget.unit == "seconds"
        self.adapt = frozenset(train.adapt if self.timed else ())
        self.validation = Cadence(Amount.parse(train.validate_every, "train.validate_every"))
        self.checkpointing = Cadence(Amount.parse(train.checkpoint_every, "train.checkpoint_every"))
        self.step_tokens, self.validation_tokens = step_tokens, validation_tokens
        self.measured = Measured()
        self.model_bytes = self.checkpoint_bytes = 0

    # ---- what was measured

    def took_step(self, seconds: float) -> None:
        """Remember what a step took."""
        mean = self.measured.step
        mean = seconds if mean == 0 else mean + _LATEST * (seconds - mean)
        self.measured = replace(self.measured, step=mean)

    def validated(self, rows: int, seconds: float, now: float) -> None:
        """Remember what scoring took, and how much was read."""
        times = self.measured.validations + 1
        self.measured = replace(
            self.measured, rows=rows, scoring=seconds, validated=now, validations=times
        )

    def saved_model(self, seconds: float, now: float) -> None:
        """Remember what saving a best model took."""
        self.measured = replace(self.measured, model=seconds, validated=now)

    def saved_checkpoint(self, seconds: float, now: float) -> None:
        """Remember what saving everything took."""
        times = self.measured.checkpoints + 1
        self.measured = replace(self.measured, checkpoint=seconds, saved=now, checkpoints=times)

    def state_dict(self) -> dict[str, Any]:
        """Return JSON values that a resume needs."""
        counts = [self.validation.count, self.checkpointing.count]
        return {"cadences": counts, "measured": asdict(self.measured)}

    def load_state_dict(self, state: Mapping[str, Any], progress: Progress, rows: int) -> None:
        """Undo `state_dict`.

        Args:
            state: As `state_dict` returned it; runs of earlier versions measured nothing.
            progress: Of the run that goes on, in this budget.
            rows: What validations of a run of an earlier version read of a lane; 0 before the first.
        """
        cadences = self.validation, self.checkpointing
        for cadence, count in zip(cadences, state["cadences"], strict=True):
            cadence.go_on(count, progress)
        now = progress.seconds
        measured = Measured(**state.get("measured", {"rows": rows, "validated": now}))
        # The checkpoint that it goes on from was not yet counted when it was written.
        self.measured = replace(measured, saved=now, checkpoints=measured.checkpoints + 1)

    # ---- what follows

    @property
    def prices(self) -> Prices:
        """What things cost, measured where they happened."""
        measured = self.measured
        token = _FORWARD_SHARE * measured.step / self.step_tokens
        scoring = measured.scoring if measured.rows else None
        least = min(_FEW_TOKENS, self.validation_tokens) * token
        most = _SLOWEST * self.validation_tokens * token or math.inf
        if not scoring and (measured.rows or "validation_tokens" not in self.adapt):
            scoring = self.validation_tokens * token
        model = measured.model or self._expected_saving(self.model_bytes)
        checkpoint = measured.checkpoint or self._expected_saving(self.checkpoint_bytes)
        doubt = 1.0 if measured.checkpoint else _DOUBT
        return Prices(model, checkpoint, doubt, scoring, least, most)

    def _expected_saving(self, num_bytes: int) -> float:
        """Return the seconds that saving should take, by what is imagined and what was measured."""
        bytes_seen, seconds = _IMAGINED_BYTES, _IMAGINED_SECONDS
        for measured, size in (
            (self.measured.model, self.model_bytes),
            (self.measured.checkpoint, self.checkpoint_bytes),
        ):
            if measured:
                bytes_seen, seconds = bytes_seen + size, seconds + measured
        return num_bytes * seconds / bytes_seen

    def plan(self, progress: Progress, spent: float) -> Plan:
        """Return what is still to happen.

        Args:
            progress: Of the run; its share of the budget does not matter.
            spent: Seconds that the run has validated and saved so far.
        """
        measured, whole = self.measured, self._whole(progress)
        times = 0 if self.validation_tokens == 0 else None
        return make_plan(
            _PLANNED * OVERHEAD * whole.seconds - spent,
            self.prices,
            self._wish("validate_every", self.validation, progress, measured.validated, times),
            self._wish("checkpoint_every", self.checkpointing, progress, measured.saved),
        )

    def _whole(self, progress: Progress) -> Progress:
        """Return where the run will be at its end if it goes on as it did."""
        share = self.budget.share_of(progress)
        scale = 1 / share if share > 0 else 0.0
        values = {name: value * scale for name, value in asdict(progress).items()}
        if self.timed:
            values["seconds"] = self.budget.value
        return Progress(**{**values, "budget": 1.0})

    def _wish(
        self,
        name: str,
        cadence: Cadence,
        progress: Progress,
        since: float,
        times: int | None = None,
    ) -> Wish:
        if times is None:
            whole = self._whole(progress)
            intervals = cadence.every.share_of(whole)
            left = 1 - since / whole.seconds if whole.seconds else 1.0
            times = max(round(intervals * left), 1)
        return Wish(times, name not in self.adapt)

    def training(self, progress: Progress, spent: float) -> Amount:
        """Return the budget without what its end is kept free for: when training ends."""
        if not self.timed:
            return self.budget
        seconds = self.budget.value - self._reserve(progress, spent)
        return Amount(max(seconds, 0.01 * self.budget.value), "seconds")

    def _reserve(self, progress: Progress, spent: float) -> float:
        """Return the seconds of the last validation, its model and the last checkpoint."""
        prices = self.prices
        if self.validation_tokens == 0:
            return prices.checkpoint
        return self.plan(progress, spent).scoring + prices.model + prices.checkpoint

    def is_over(self, progress: Progress, spent: float) -> bool:
        """Whether no step is to follow: in a budget in time, because it would not end in time."""
        share = self.training(progress, spent).share_of(progress)
        if not self.timed or progress.steps == 0:
            return share >= 1
        expected = replace(progress, seconds=progress.seconds + self.measured.step)
        return share >= 1 or self.training(progress, spent).share_of(expected) > 1

    def validation_due(self, progress: Progress, spent: float) -> bool:
        """Whether to validate before the next step; what comes at the end is not asked for."""
        if self.validation_tokens == 0:
            return False
        if "validate_every" not in self.adapt:
            return self.validation.due(progress)
        times = self.plan(progress, spent).validations
        return self._passed(self.measured.validated, times, progress, spent)

    def checkpoint_due(self, progress: Progress, spent: float) -> bool:
        """Whether to save before the next step; what comes at the end is not asked for."""
        if "checkpoint_every" not in self.adapt:
            return self.checkpointing.due(progress)
        times = self.plan(progress, spent).checkpoints
        return self._passed(self.measured.saved, times, progress, spent)

    def _passed(self, since: float, times: int, progress: Progress, spent: float) -> bool:
        """Whether the first of `times` equal parts of the time from `since` to the end is over."""
        end = self.training(progress, spent).value
        return times > 1 and progress.seconds >= since + (end - since) / times

    def lengths(
        self, progress: Progress, spent: float, clock: Callable[[], float]
    ) -> Iterator[int]:
        """Yield how many tokens of a lane the next validation reads at once, until it has read enough."""
        if self.measured.rows:
            return lengths_of(self.measured.rows)
        if "validation_tokens" not in self.adapt:
            return growing_lengths()
        return lengths_until(clock() + self.plan(progress, spent).scoring, clock)

    def facts(self, progress: Progress, spent: float, lanes: int) -> dict[str, Any] | None:
        """Return what is to be told of the plan, None as long as it isn't known.

        Args:
            progress: Of the run.
            spent: Seconds that the run has validated and saved so far.
            lanes: In which validations read.
        """
        measured, plan = self.measured, self.plan(progress, spent)
        last_only = self.timed and plan.validations <= 1 and progress.steps >= _STEPS_TO_TELL
        if not (measured.rows or last_only) or measured.step == 0:
            return None
        return {
            "validation_tokens": measured.rows * lanes or None,
            "validations": measured.validations + plan.validations,
            "checkpoints": measured.checkpoints + plan.checkpoints,
            "asked": [f"train.{n}" for n in ADAPTED if self.timed and n not in self.adapt],
            "share": (spent + plan.seconds) / max(self._whole(progress).seconds, 1e-9),
        }
