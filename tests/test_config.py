"""Settings: checked at the front door, filled in, and the same after a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharnn.amounts import Amount, Progress
from sharnn.config import ModelConfig, OptimConfig, to_dict
from sharnn.errors import ConfigError
from sharnn.recipe import load_recipe_settings, recipe_from_settings, resolve_recipe


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("90s", 90, "seconds"), ("10m", 600, "seconds"), ("1.5h", 5400, "seconds"),
        ("5000steps", 5000, "steps"), ("1step", 1, "steps"), ("3epochs", 3, "epochs"),
        ("50Mtokens", 50e6, "tokens"), ("2ktokens", 2000, "tokens"), ("5%", 0.05, "budget"),
    ],
)  # fmt: skip
def test_amounts(text: str, value: float, unit: str) -> None:
    amount = Amount.parse(text, "option")
    assert (amount.value, amount.unit) == (pytest.approx(value), unit)


@pytest.mark.parametrize("text", ["", "10", "m", "10 parsecs", "5Ms", "-3s", "101%", "3kepochs%"])
def test_bad_amounts(text: str) -> None:
    with pytest.raises(ConfigError, match="option is"):
        Amount.parse(text, "option")


def test_shares() -> None:
    half = Progress(seconds=5, steps=10, epochs=1, tokens=100, budget=0.5)
    for text in ("10s", "20steps", "2epochs", "200tokens", "100%"):
        assert Amount.parse(text, "option").share_of(half) == 0.5
    assert Amount.parse("0steps", "option").share_of(half) > 1


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


def test_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {embed_dim: 32}\noptim: {betas: [0.8, 0.9], lr: 1.0e-2}\n")
    recipe = recipe_from_settings(load_recipe_settings(str(path)))
    assert (recipe.model.embed_dim, recipe.optim.betas, recipe.optim.lr) == (32, (0.8, 0.9), 0.01)
    for text, message in {
        "modle: {}": "did you mean 'model'",
        "model: {embed_dmi: 3}": "did you mean 'embed_dim'",
        "model: 3": "must hold settings",
        "- 1": "must hold the sections",
        "model: {": "is not YAML",
    }.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_recipe_settings(str(path))
    path.write_text("model: {embed_dim: wide}")
    with pytest.raises(ConfigError, match="embed_dim"):
        recipe_from_settings(load_recipe_settings(str(path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {fit: null}", "train.fit is None"),
        ("train: {fit: [1]}", "train.fit is .1."),
        ("train: {fit: model.embed_dim}", "give a list of settings"),
        ("train: {adapt: 5}", "train.adapt is 5"),
        ("train: {init_from: 3}", "train.init_from is 3"),
        ("model: {1: 2}", "there is no setting '1'"),
        ("optim: {betas: [0.9]}", "optim.betas is '.0.9.': give .*a list of 2 numbers"),
        ("train: {budget: 10}", "train.budget is '10': give a text"),
    ],
)
def test_a_recipe_of_other_types_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        resolve_recipe(str(tmp_path / "recipe.yaml"))


def test_a_head_that_reaches_nothing_is_refused() -> None:
    for settings in ({"window": 0}, {"attention_layers": "none"}):
        with pytest.raises(ConfigError, match="reads_next is True, but no block has a head"):
            ModelConfig(residual=True, reads_next=True, **settings)
