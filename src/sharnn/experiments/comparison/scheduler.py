"""The order of runs: contenders take turns, so that noise of the machine affects all of them alike."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from rich.console import Console

from sharnn.errors import ConfigError
from sharnn.experiments.comparison.contenders import Budget, Plan
from sharnn.experiments.comparison.run_store import Store
from sharnn.experiments.comparison.runner import Runner
from sharnn.train.logger import format_seconds


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
