"""Steps of the real model are timed, in a small share of the budget."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from sharnn.config import Recipe
from sharnn.train import probe
from sharnn.train.estimate import step_flops
from sharnn.train.precision import Precision
from sharnn.train.probe import StepTimes
from train.runs import make_trainer, tiny_corpus, tiny_recipe

CPU = Precision(torch.device("cpu"), torch.float32)


def recipe_of(dim: int, **train: object) -> Recipe:
    return tiny_recipe(
        model={"embed_dim": dim}, data={"num_lanes": 16, "segment_length": 32, "random_segments": False},
        optim={"name": "muon", "average": 0.2}, train=train,
    )  # fmt: skip


@pytest.mark.parametrize("groups", [1, 2])
def test_a_step_takes_what_was_measured(groups: int, tmp_path: Path) -> None:
    recipe = recipe_of(64, grad_accum_steps=groups)
    trainer = make_trainer(tmp_path / "run", recipe, tiny_corpus(tmp_path, 30_000))
    found, taken = [], []
    for _ in range(
        6
    ):  # alternating, and the fastest of each counts: other processes slow some down
        times = StepTimes(CPU, "1h")
        assert times.measure(recipe)
        found.append(times.seconds(recipe))
        for _ in range(4):
            started = time.perf_counter()
            trainer.step()
            taken.append(time.perf_counter() - started)
    # Only to a factor: the accuracy is measured by benchmarks, on a quiet machine.
    assert min(taken) / 3 < min(found) + 0.01
    assert min(found) < 3 * min(taken) + 0.01


@pytest.mark.parametrize(
    "model",
    [
        {"architecture": "lstm", "window": None, "attention_dropout": 0.0},
        {"architecture": "transformer", "num_heads": 2, "window": 24},
        {"recall_orders": [1, 3], "recall_slots": 256, "longest_ngram": 3, "ngram_min_count": 2},
    ],
    ids=["lstm", "transformer", "look-ups"],
)
def test_every_model_is_timed_with_full_memories(model: dict[str, object]) -> None:
    step = probe._Step(tiny_recipe(model=model), CPU)
    lengths = [layer.memory.lengths for layer in step.state.layers if layer.memory is not None]
    assert all(each == (24,) * 4 for each in lengths)
    assert len(lengths) == {"lstm": 0, "transformer": 2}.get(str(model.get("architecture")), 1)
    passed, updated = step.run(5)
    assert passed > 0
    assert updated > 0


class Step:
    """Takes one second for each token of a lane, and ten for the update."""

    def __init__(self, recipe: Recipe, precision: Precision) -> None:
        self.segment_length = recipe.data.segment_length

    def run(self, num_tokens: int) -> tuple[float, float]:
        Step.clock += num_tokens + 10
        return num_tokens, 10

    def whole_seconds(self, num_tokens: int) -> float:
        Step.lengths.append(num_tokens)
        passes, update = self.run(num_tokens)
        return passes * self.segment_length / num_tokens + update

    clock = 0.0
    lengths: list[int] = []  # noqa: RUF012


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    Step.clock, Step.lengths = 0.0, []
    monkeypatch.setattr(probe, "_Step", Step)
    monkeypatch.setattr(probe.time, "perf_counter", lambda: Step.clock)


@pytest.mark.usefixtures("slow_steps")
def test_probes_take_a_small_share_of_the_budget() -> None:
    times = StepTimes(CPU, "1h")
    assert times.measure(recipe_of(16))  # the first one in any case
    assert Step.lengths == [8, 8]
    assert times.seconds(recipe_of(16)) == 42
    assert not times.measure(recipe_of(32))  # there is no time left
    larger = step_flops(recipe_of(32)) / step_flops(recipe_of(16))
    assert times.seconds(recipe_of(32)) == pytest.approx(42 * larger)


@pytest.mark.usefixtures("slow_steps")
def test_a_size_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_MOST_SECONDS", 1e6)
    times = StepTimes(CPU, "1000h")
    assert times.measure(recipe_of(16))
    assert Step.lengths == [8, 32]  # there is time for a whole segment
    assert not times.measure(recipe_of(16))
    assert times.measure(recipe_of(32))
    assert times.seconds(recipe_of(32)) == 42


def test_the_share_is_that_of_a_time_budget() -> None:
    assert StepTimes(CPU, "20s")._seconds_left == pytest.approx(1)
    assert StepTimes(CPU, "10m")._seconds_left == StepTimes(CPU, "5steps")._seconds_left == 3
