"""A model with recall copies what it has read."""

from __future__ import annotations

import pytest
import torch

from sharnn.config import ModelConfig
from sharnn.errors import ConfigError
from sharnn.model import LanguageModel


def test_a_model_repeats_what_it_read_once() -> None:
    """Weights that trust recall make a copying machine of a model that has learnt nothing else."""
    torch.manual_seed(0)
    config = ModelConfig(embed_dim=32, num_layers=1, residual=True, recall_orders=[3])
    model = LanguageModel(config).eval()
    assert model.recall is not None
    with torch.no_grad():
        model.recall.tokens.weight.copy_(100 * model.embedding.weight)
    text = torch.randint(256, (1, 50)).repeat(1, 2)
    logits, _ = model(text, model.initial_state(1))
    guesses = logits.argmax(-1)[0]
    assert torch.equal(guesses[53:99], text[0, 54:])
    assert (guesses[:49] == text[0, 1:50]).float().mean() < 0.2


def test_more_slots_remember_more() -> None:
    config = ModelConfig(embed_dim=8, num_layers=1, recall_orders=[2], recall_slots=256)
    model = LanguageModel(config)
    model.set_recall_slots(1 << 12)
    assert model.initial_state(3).slots.shape == (3, 1, 1 << 12)
    assert model.initial_state(3, 512).slots.shape == (3, 1, 512)
    assert model.state_bytes() == LanguageModel(model.config).state_bytes()
    with pytest.raises(ConfigError, match="power of two"):
        model.set_recall_slots(1_000)
    with pytest.raises(ConfigError, match="nothing is recalled"):
        LanguageModel(ModelConfig(embed_dim=8)).set_recall_slots(256)


def test_gains_and_rows_take_a_gradient() -> None:
    config = ModelConfig(embed_dim=8, num_layers=1, residual=True, recall_orders=[1, 2])
    model = LanguageModel(config)
    text = torch.tensor([[1, 2, 1, 2, 1, 2, 1]])
    model(text, model.initial_state(1))[0].sum().backward()
    assert model.recall is not None
    rows = model.recall.tokens.weight.grad.abs().sum(1).nonzero().flatten()
    assert rows.tolist() == [1, 2]
    assert (model.recall.source.weight.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recall_orders": [0, 2]}, "lengths of 1 or more"),
        ({"recall_orders": [2, 2]}, "each once"),
        ({"recall_slots": 1024}, "nothing is recalled"),
        ({"recall_orders": [2], "recall_slots": 1000}, "power of two"),
        ({"recall_orders": [2], "recall_slots": 128}, "a power of two from 256"),
        ({"recall_orders": [2], "vocab_size": 2_000_000}, "up to 1,000,000 tokens"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**{"embed_dim": 16, **settings})


def test_tables_beyond_all_memory_are_refused() -> None:
    config = ModelConfig(
        embed_dim=8, num_layers=1, recall_orders=[1, 2, 3, 5], recall_slots=1 << 28
    )
    with pytest.raises(ConfigError, match=r"take 8,388,608 GiB.*lower model.recall_slots"):
        LanguageModel(config).initial_state(1 << 20)
