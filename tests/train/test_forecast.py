"""What a run will take, from the time of a step."""

from __future__ import annotations

import pytest
import torch

from sharnn.errors import TrainingError
from sharnn.train.forecast import check_memory, forecast_run
from sharnn.train.precision import Precision
from sharnn.train.probe import StepTimes
from train.runs import tiny_recipe

CPU = Precision(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("budget", "tokens", "seconds"),
    [
        ("10s", 12_800, 10),
        ("5steps", 640, 0.5),
        ("2epochs", 2_000, 1.5625),
        ("256tokens", 256, 0.2),
    ],
)
def test_tokens_and_seconds_follow_from_the_step_time(
    budget: str, tokens: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepTimes, "seconds", lambda *_: 0.1)
    recipe = tiny_recipe(data={"segment_length": 32}, train={"budget": budget})
    found = forecast_run(recipe, StepTimes(CPU, budget), epoch_tokens=1_000)
    assert found.tokens_per_second == pytest.approx(1_280)
    assert (found.tokens, found.seconds) == pytest.approx((tokens, seconds))


def test_a_run_that_does_not_fit_is_refused() -> None:
    recipe = tiny_recipe()
    times = StepTimes(CPU, "1m")
    check_memory(recipe, times)
    times.free_bytes = 1 << 20
    with pytest.raises(TrainingError, match=r"0\.0 GiB are free on cpu: lower data.num_lanes"):
        check_memory(recipe, times)
