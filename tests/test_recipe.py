"""Recipes are read and written, and what is wrong in them is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sharnn.config import Recipe, to_dict
from sharnn.errors import ConfigError
from sharnn.recipe import (
    load_recipe_settings,
    recipe_from_settings,
    resolve_recipe,
    resolve_settings,
    settings_to_yaml,
)


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


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("desktop", {}, {"model.embed_dim": 64}),
        ("desktop", {"model.embed_dim": 128}, {"model.embed_dim": 64, "model.num_layers": 6}),
        ("desktop", {}, {"model.longest_ngram": 0, "model.recall_orders": [], "train.fit": []}),
        ("desktop", {}, {"optim.name": "lamb"}),
        ("one-head", {"model.attention_layers": "all"}, {"model.num_layers": 2}),
        ("paper-enwik8-one", {"model.boom_dim": 2048}, {"model.num_layers": 6}),
        ("transformer", {}, {"model.architecture": "lstm"}),
    ],
)
def test_a_recipe_written_as_yaml_does_the_same_with_other_settings(
    tmp_path: Path, name: str, first: dict[str, Any], then: dict[str, Any]
) -> None:
    """What is derived from other settings is derived again, and what was given is kept."""
    path = tmp_path / "printed: recipe.yaml"
    path.write_text(settings_to_yaml(resolve_settings(name, first)))
    assert resolve_recipe(str(path)) == resolve_recipe(name, first)
    assert resolve_recipe(str(path), then) == resolve_recipe(name, {**first, **then})


def test_a_recipe_written_as_yaml_names_every_setting() -> None:
    text = settings_to_yaml({"data": {"texts": ["a: b", "'ü #1"]}, "model": {"embed_dim": 64}})
    assert yaml.safe_load(text)["data"]["texts"] == ["a: b", "'ü #1"]
    assert "  # boom_dim: 256\n" in text
    assert "  # attention_layers: [2]\n" in text
    named = re.findall(r"^  (?:# )?(\w+): .", text, re.MULTILINE)
    assert named == [key for values in to_dict(Recipe()).values() for key in values]


def test_a_recipe_with_a_name_too_long_for_a_file_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="there is no recipe 'xxx"):
        load_recipe_settings("x" * 300)
