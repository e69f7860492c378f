"""The order of runs: contenders take turns, so that noise of the machine affects all of them alike."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from sharnn.data.corpus import Corpus
from sharnn.errors import ConfigError
from sharnn.experiments.comparison.contenders import Budget, Contender, Plan, make_plans
from sharnn.experiments.comparison.run_store import Store
from sharnn.experiments.comparison.runner import Runner, environment_for
from sharnn.train import resolve_device
from sharnn.train.logger import format_seconds

T = TypeVar("T")


class Countdown:
    """Counts the runs that are left, and estimates their time from the finished ones."""

    def __init__(self, plans: Sequence[Plan], jobs: int) -> None:
        self.total, self._jobs = len(plans), jobs
        self._waiting, self._unfinished = list(plans), list(plans)
        self._done: list[tuple[Plan, float]] = []

    def begin(self, plan: Plan) -> str:
        """Return a line that announces a run."""
        self._waiting.remove(plan)
        number = self.total - len(self._waiting)
        seconds = self.seconds_left()
        left = "" if seconds is None else f", all done in about {format_seconds(seconds)}"
        return f"run {number} of {self.total}: {plan} · {len(self._waiting)} to follow{left}"

    def end(self, plan: Plan, seconds: float) -> None:
        """Record the seconds of a finished run, its scoring included."""
        self._unfinished.remove(plan)
        self._done.append((plan, seconds))

    def seconds_left(self) -> float | None:
        """Return the expected seconds until all runs are done; None if there is nothing to go by."""
        expected = [self._expected(plan) for plan in self._unfinished]
        known = [seconds for seconds in expected if seconds is not None]
        return sum(known) / self._jobs if len(known) == len(expected) else None

    def _expected(self, plan: Plan) -> float | None:
        value = plan.budget.amount.value
        if plan.budget.timed:
            extra = [seconds - done.budget.amount.value for done, seconds in self._done]
            return value + (statistics.mean(extra) if extra else 0.0)
        unit = plan.budget.amount.unit
        alike = [(done, s) for done, s in self._done if done.budget.amount.unit == unit]
        own = [(done, s) for done, s in alike if done.name == plan.name] or alike
        if not own:
            return None
        return value * statistics.mean(s / done.budget.amount.value for done, s in own)


def check_turns(budgets: Sequence[Budget], jobs: int) -> None:
    """Check that budgets can be compared, and that parallel runs take no time from each other.

    Raises:
        ConfigError: They cannot, or they do.
    """
    timed = [budget.timed for budget in budgets]
    if any(timed) and not all(timed):
        raise ConfigError(
            f"budget is {', '.join(budget.text for budget in budgets)}: time cannot be compared with "
            "tokens, steps or epochs, give all in time or none"
        )
    if jobs > 1 and any(timed):
        raise ConfigError(
            f"jobs is {jobs}, but parallel runs would take time from each other: with a budget in time "
            "give 1, or give a budget in tokens, steps or epochs"
        )


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is the same for all contenders of a comparison.

    Attributes:
        text: Known corpus, file, folder or glob.
        budgets: How long each contender trains; all in time, or none.
        seeds: Seeds for each contender and budget.
        command: The command line, recorded with each run.
        folder: Folder of the run folders and logs.
        keep: Whether these stay there.
        jobs: Number of runs in parallel.
        threads: Threads of each run; None divides all threads by `jobs`.
        device: As `train.device`.
        again: Whether runs that are in the results already are repeated.
        splits: Splits that each run is scored on.
        share: Share of each split that is scored, from its beginning.
    """

    text: str
    budgets: Sequence[Budget]
    seeds: Sequence[int]
    command: str
    folder: Path
    keep: bool = False
    jobs: int = 1
    threads: int | None = None
    device: str = "auto"
    again: bool = False
    splits: Sequence[str] = ("valid",)
    share: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: One is out of range, or two do not go together.
        """
        counts = {"jobs": self.jobs, "seeds": len(self.seeds), "threads": self.threads}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}: it must be at least 1")
        if not 0 < self.share <= 1:
            raise ConfigError(f"share is {self.share:g}: it must be above 0 and at most 1")
        check_turns(self.budgets, self.jobs)
        if self.text == "-":
            raise ConfigError("text is -, but every run reads it again: give a file")


def run_comparison(
    terms: Terms,
    contenders: Mapping[str, Contender],
    corpus: Corpus,
    conditions: Mapping[str, Any],
    store: Store,
    console: Console,
    publish: Callable[[Sequence[Plan]], T],
) -> T:
    """Train and score the runs that are not in the store, and publish all of them.

    Args:
        terms: What is the same for all contenders.
        contenders: Contenders by name.
        corpus: The prepared text.
        conditions: What else determines the figures of a run, see `make_plans`.
        store: Where the figures of runs are stored.
        console: Where progress is shown.
        publish: Writes the results of the given plans. After a failure it is called only if there are
            new runs; otherwise the results stay as they were.

    Returns:
        What `publish` returns.

    Raises:
        SharnnError: A run failed; the results of finished runs are kept.
    """
    device = str(resolve_device(terms.device))
    environment, threads = environment_for(terms.threads, terms.jobs)
    conditions = {"text_digest": corpus.digest, "threads": threads, **conditions}
    plans = make_plans(contenders, terms.budgets, terms.seeds, terms.text, device, conditions)
    todo = missing_runs(plans, store, console, terms.again)
    runner = Runner(
        corpus, terms.text, device, environment,
        folder=terms.folder, keeps=terms.keep,
        command=terms.command, splits=terms.splits, share=terms.share,
    )  # fmt: skip
    try:
        run_all(todo, terms.jobs, runner, store, console)
    except BaseException:
        if store.added:
            publish(plans)
        raise
    return publish(plans)


def missing_runs(
    plans: Sequence[Plan], store: Store, console: Console, again: bool = False
) -> list[Plan]:
    """Return the plans without a finished run, or all if `again`; print how many runs are reused."""
    finished = store.find_all(plans)
    missing = [plan for plan, run in zip(plans, finished, strict=True) if again or run is None]
    if len(missing) < len(plans):
        held = f"{len(plans) - len(missing)} of {len(plans)} runs are in {store.path} already"
        console.print(held, highlight=False, markup=False)
    return missing


def run_all(
    plans: Sequence[Plan], jobs: int, runner: Runner, store: Store, console: Console
) -> None:
    """Run plans and store each result at once; after a failure no further run is started.

    Args:
        plans: The runs, in order.
        jobs: Number of runs in parallel.
        runner: Trains and scores them.
        store: Takes their figures.
        console: Where progress is shown.

    Raises:
        SharnnError: A run failed. Runs parallel to it have been completed.
        KeyboardInterrupt: The runs in progress have been stopped.
    """
    countdown, lock, failed = Countdown(plans, jobs), threading.Lock(), threading.Event()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    def run(plan: Plan) -> None:
        if failed.is_set():
            return
        with lock:
            say(countdown.begin(plan))
        started = time.monotonic()
        try:
            figures = runner.measure(plan)
        except BaseException:
            failed.set()  # at once: the main thread learns of it only after the next run has begun
            raise
        with lock:
            store.add(figures)
            countdown.end(plan, time.monotonic() - started)
            say(f"  {plan}: {figures['bits_per_byte']:.4f} bits per byte")

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(run, plan) for plan in plans]):
                future.result()
        except BaseException as failure:
            failed.set()
            if isinstance(failure, KeyboardInterrupt):
                runner.processes.stop()
            raise
