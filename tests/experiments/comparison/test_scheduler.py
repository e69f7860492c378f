"""Who runs when, and what a failure or a stop leaves behind."""

from __future__ import annotations

import io
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.comparison.comparisons import make_plan, make_run
from sharnn.errors import ConfigError, TrainingError
from sharnn.experiments.comparison.contenders import Budget, Contender, Plan, make_plans
from sharnn.experiments.comparison.processes import Processes, StoppedError, interrupted_by_kill
from sharnn.experiments.comparison.run_store import Store
from sharnn.experiments.comparison.scheduler import Countdown, check_turns, missing_runs, run_all


class Bench:
    """Stands where a runner would, and fails when it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.measured = failing, list[str]()
        self.processes = Processes()

    def measure(self, plan: Plan) -> dict[str, Any]:
        if plan.name == self.failing:
            raise TrainingError(f"{plan}: out of luck")
        self.measured.append(plan.name)
        return make_run(plan)


def test_contenders_take_turns() -> None:
    contenders = {"x": Contender("demo"), "y": Contender("demo", {"model.embed_dim": 64})}
    budgets = [Budget.parse("1s"), Budget.parse("2s")]
    plans = make_plans(contenders, budgets, [3, 4], "text", "cpu", {"threads": 1})
    turns = [(plan.budget.text, plan.seed, plan.name) for plan in plans]
    assert turns == [(b, s, n) for b in ("1s", "2s") for s in (3, 4) for n in "xy"]
    first, second = plans[:2]
    assert first.key["budget"] == {"value": 1.0, "unit": "seconds"}
    assert (first.key["threads"], first.key["seed"], first.recipe.train.seed) == (1, 3, 3)
    assert first.recipe.data.texts == ["text"]
    assert "texts" not in first.key["settings"]["data"]
    assert second.key["settings"]["model"]["embed_dim"] == 64


def test_the_time_left_follows_the_runs_that_are_done() -> None:
    names = [("slow", 10), ("quick", 10), ("slow", 30), ("quick", 30)]
    plans = [make_plan(name, f"{steps}steps") for name, steps in names]
    countdown = Countdown(plans, jobs=2)
    assert countdown.begin(plans[0]) == "run 1 of 4: slow · 10steps · seed 0 · 3 to follow"
    countdown.end(plans[0], 20.0)
    countdown.end(plans[1], 10.0)
    assert countdown.seconds_left() == (60 + 30) / 2


def test_a_failure_ends_the_turns_and_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.json", {"machine": "this"})
    plans = [make_plan(name, embed_dim=16 * n) for n, name in enumerate("abc", start=1)]
    said = io.StringIO()
    console = Console(file=said, width=200)
    bench = Bench(failing="b")
    with pytest.raises(TrainingError, match="out of luck"):
        run_all(plans, 1, bench, store, console)  # type: ignore[arg-type]
    assert bench.measured == ["a"]
    todo = missing_runs(plans, store, console)
    assert [plan.name for plan in todo] == ["b", "c"]
    assert "1 of 3 runs are in" in said.getvalue()
    assert missing_runs(plans, store, console, again=True) == plans
    bench = Bench()
    run_all(todo, 1, bench, store, console)  # type: ignore[arg-type]
    assert bench.measured == ["b", "c"]
    assert missing_runs(plans, store, console) == []


@pytest.mark.parametrize(
    ("budgets", "jobs", "message"),
    [(["90s", "5steps"], 1, "budget is 90s, 5steps"), (["90s"], 2, "jobs is 2")],
)
def test_what_would_not_be_equal_is_refused(budgets: list[str], jobs: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_turns([Budget.parse(text) for text in budgets], jobs)


def test_processes_that_were_asked_to_end_do(tmp_path: Path) -> None:
    processes = Processes()
    assert processes.run(["true"], tmp_path / "log", {}) < 60
    processes.check()
    with pytest.raises(TrainingError, match="exit code 1 of false"):
        processes.run(["false"], tmp_path / "log", {})
    processes.stop()
    with pytest.raises(StoppedError, match="stopped: sleep 60"):
        processes.run(["sleep", "60"], tmp_path / "log", {})
    with pytest.raises(TrainingError, match="stopped"):
        processes.check()
    with pytest.raises(TrainingError, match="no such file"):
        processes.run([str(tmp_path / "nothing")], tmp_path / "log", {})


def test_a_polite_kill_is_a_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interrupted_by_kill():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
