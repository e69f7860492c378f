"""Settings: checked at the front door, filled in, and the same after a round trip."""

from __future__ import annotations

import dataclasses

import pytest

from sharnn.config import DataConfig, ModelConfig, OptimConfig, TrainConfig, to_dict
from sharnn.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({}, [2]), ({"attention_layers": "all"}, [0, 1, 2, 3]), ({"attention_layers": "none"}, []),
        ({"attention_layers": [3, 1, 1]}, [1, 3]), ({"num_layers": 1}, [0]), ({"window": 0}, []),
        ({"attention_layers": "all", "window": 0}, []),
    ],
)  # fmt: skip
def test_where_the_head_sits(settings: dict[str, object], layers: list[int]) -> None:
    config = ModelConfig(**settings)
    assert config.attention_layers == layers
    assert ModelConfig(**to_dict(config)) == config


def test_the_split_softmax_follows_the_vocabulary() -> None:
    assert ModelConfig(vocab_size=75_000).softmax_cutoffs == []
    assert ModelConfig(vocab_size=76_000).softmax_cutoffs == [2800, 20000]
    assert ModelConfig(vocab_size=267_735).softmax_cutoffs == [2800, 20000, 76000]
    assert ModelConfig(vocab_size=267_735, split_softmax=[]).softmax_cutoffs == []
    with pytest.raises(ConfigError, match="cutoffs must be increasing"):
        ModelConfig(vocab_size=100, split_softmax=[50, 20])


@pytest.mark.parametrize(
    "settings",
    [
        {"boom_dim": 8, "embed_dim": 16}, {"window": -1}, {"attention_layers": [4]},
        {"embed_dim": 0}, {"hidden_dropout": 1.0}, {"num_heads": 3},
        {"attention_layers": "none", "attention_dropout": 0.1},
        {"attention_layers": "none", "overparam_value_gate": True},
        {"architecture": "lstm", "attention_layers": "all"}, {"architecture": "lstm", "boom_dim": 9},
        {"architecture": "transformer", "embed_dim": 30, "num_heads": 4},
        {"architecture": "transformer", "residual": True},
        {"architecture": "transformer", "window": 0},
    ],
)  # fmt: skip
def test_models_that_cannot_be_meant(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"model\."):
        ModelConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0}, {"betas": (0.9, 1.0)}, {"min_trust": 0.5}, {"matrix_lr": 0.1}, {"hold": "10s"},
        {"halve_at": [0.5]}, {"decay": "halving"}, {"decay": "halving", "halve_at": [1.5]},
        {"decay": "constant", "final_lr": 0.1}, {"decay": "constant", "hold": "5%"},
        {"weight_decay": -1},
    ],
)  # fmt: skip
def test_optimisers_that_cannot_be_meant(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"optim\."):
        OptimConfig(**settings)


def test_a_head_that_reaches_nothing_is_refused() -> None:
    for settings in ({"window": 0}, {"attention_layers": "none"}):
        with pytest.raises(ConfigError, match="reads_next is True, but no block has a head"):
            ModelConfig(residual=True, reads_next=True, **settings)


def test_less_than_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_train_tokens is -1"):
        DataConfig(max_train_tokens=-1)


@pytest.mark.parametrize("config", [ModelConfig, DataConfig, OptimConfig, TrainConfig])
def test_null_is_refused_where_a_value_is_needed(config: type) -> None:
    for field in dataclasses.fields(config):
        if field.default is None:
            config(**{field.name: None})
        else:
            with pytest.raises(ConfigError, match=rf"\.{field.name} is null"):
                config(**{field.name: None})
