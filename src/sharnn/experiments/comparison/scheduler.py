"""Contenders take turns, so that a noisy machine is as noisy for each."""

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
    """How many runs are left, and how long they will take by those that are done."""

    def __init__(self, plans: Sequence[Plan], jobs: int) -> None:
        self.total, self._jobs = len(plans), jobs
        self._waiting, self._unfinished = list(plans), list(plans)
        self._done: list[tuple[Plan, float]] = []

    def begin(self, plan: Plan) -> str:
        """Say what begins."""
        self._waiting.remove(plan)
        number = self.total - len(self._waiting)
        seconds = self.seconds_left()
        left = "" if seconds is None else f", all done in about {format_seconds(seconds)}"
        return f"run {number} of {self.total}: {plan} · {len(self._waiting)} to follow{left}"

    def end(self, plan: Plan, seconds: float) -> None:
        """Take the time of a run that ended, its scoring included."""
        self._unfinished.remove(plan)
        self._done.append((plan, seconds))

    def seconds_left(self) -> float | None:
        """Return the expected seconds of all that has not ended; None where nothing tells."""
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
    """Refuse budgets that cannot be compared, and runs that would take time from each other.

    Raises:
        ConfigError: Says what to change.
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
    """Return those plans that the store holds no run of, or all if they are to run again; say so."""
    missing = [plan for plan in plans if again or store.find(plan) is None]
    if len(missing) < len(plans):
        held = f"{len(plans) - len(missing)} of {len(plans)} runs are in {store.path} already"
        console.print(held, highlight=False, markup=False)
    return missing


def run_all(
    plans: Sequence[Plan], jobs: int, runner: Runner, store: Store, console: Console
) -> None:
    """Run what is planned and store each as it ends; after a failure nothing new is begun.

    Args:
        plans: The runs, in their order.
        jobs: Runs side by side.
        runner: Where they take place.
        store: Takes their figures.
        console: Where progress is shown.

    Raises:
        SharnnError: A run failed. Those beside it have been waited for.
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
            failed.set()  # at once: the main thread would hear of it when the next run has begun
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
