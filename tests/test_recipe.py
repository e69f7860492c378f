"""Files of recipes are read, and what is wrong in them is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharnn.errors import ConfigError
from sharnn.recipe import load_recipe_settings, recipe_from_settings, resolve_recipe


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
