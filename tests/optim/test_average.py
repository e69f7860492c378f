"""The mean of the weights is the mean that is promised, and can be put in and out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sharnn.optim import WeightAverage


def walk(model: nn.Linear, average: WeightAverage, steps: int) -> list[float]:
    """Move the one weight at random; return where it was after each step."""
    places = []
    for _ in range(steps):
        with torch.no_grad():
            model.weight.add_(torch.randn(1, 1))
        average.update()
        places.append(model.weight.item())
    return places


def mean_of(model: nn.Linear, average: WeightAverage) -> float:
    with average.applied():
        return model.weight.item()


def small_model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(1, 1, bias=False).double()


def test_a_share_of_one_is_the_mean_of_all_steps() -> None:
    model = small_model()
    average = WeightAverage(model, 1.0)
    places = walk(model, average, 50)
    assert mean_of(model, average) == pytest.approx(sum(places) / 50)
    assert model.weight.item() == places[-1]


def test_later_steps_weigh_more_by_the_polynomial() -> None:
    """With η = 1 step t has a weight in proportion to t (Shamir & Zhang, section 4)."""
    model = small_model()
    average = WeightAverage(model, 0.5)
    places = walk(model, average, 50)
    expected = sum(t * place for t, place in enumerate(places, 1)) / sum(range(51))
    assert mean_of(model, average) == pytest.approx(expected)


def test_it_goes_on_from_its_state() -> None:
    model = small_model()
    average = WeightAverage(model, 0.2)
    walk(model, average, 9)
    again = small_model()
    again_average = WeightAverage(again, 0.2)
    with torch.no_grad():
        again.weight.fill_(mean_of(model, average))  # as a checkpoint has it
    again_average.load_state_dict(average.state_dict())
    assert again.weight.item() == model.weight.item()
    for one, of in ((model, average), (again, again_average)):
        torch.manual_seed(1)
        walk(one, of, 9)
    assert again.weight.item() == model.weight.item()
    assert mean_of(again, again_average) == mean_of(model, average)


def test_before_the_first_step_the_mean_is_what_was_loaded() -> None:
    """A run that goes on from a model scores and saves that before it moves it."""
    model = small_model()
    average = WeightAverage(model, 0.2)
    model.load_state_dict({"weight": torch.tensor([[7.0]])})
    assert mean_of(model, average) == 7
    assert model.weight.item() == 7
    (place,) = walk(model, average, 1)
    assert mean_of(model, average) == place


def test_the_weights_come_back_after_a_failure() -> None:
    model = small_model()
    average = WeightAverage(model, 0.2)
    places = walk(model, average, 3)
    with pytest.raises(RuntimeError, match="no disk"), average.applied():
        raise RuntimeError("no disk")
    assert model.weight.item() == places[-1]
