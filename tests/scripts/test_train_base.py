"""How the shipped model is made, at a small size: its training text and its card."""

from __future__ import annotations

from pathlib import Path

import pytest

import train_base
from sharnn.checkpoint import load_model
from sharnn.data.prepare import prepare
from sharnn.recipe import load_recipe_settings, recipe_from_settings
from texts import write_text

TINY = """\
model: {embed_dim: 16, num_layers: 2, window: 24, residual: true, longest_ngram: 3, ngram_rows: 64}
data: {num_lanes: 4, segment_length: 16, block_length: 32}
train: {validate_every: 2steps, validation_tokens: 300, device: cpu}
"""


def test_the_recipe_can_be_loaded() -> None:
    recipe = recipe_from_settings(load_recipe_settings(str(train_base.RECIPE)))
    assert recipe.model.longest_ngram > 0


def test_a_model_is_trained_scored_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write_text(tmp_path, 6_000, "a.txt"), write_text(tmp_path, 2_000, "b.txt")
    (tmp_path / "tiny.yaml").write_text(TINY)
    call = [
        "--train", f"{first}:0.9", str(second), "--valid", f"{first}:0.9:0.95", str(second),
        "--recipe", str(tmp_path / "tiny.yaml"), "--run", str(tmp_path / "run"),
        "--out", str(tmp_path / "model"), "--about", "two texts",
    ]  # fmt: skip
    assert train_base.main([*call, "--budget", "3steps"]) == 0
    card = load_model(tmp_path / "model").card
    assert load_model(tmp_path / "model").dtype == "int8"
    assert card["data"] == "two texts"
    assert card["bytes to train on"] == "7,400"
    assert "CC BY-SA" in card["licence"]
    scores = {name: value for name, value in card.items() if "bits per byte" in name}
    assert list(scores) == ["bits per byte, a.txt valid", "bits per byte, b.txt valid"]
    out = capsys.readouterr().out
    assert all(score in out for score in scores.values())
    assert train_base.main([*call, "--resume", "--budget", "5steps"]) == 0
    assert load_model(tmp_path / "model").card["steps"] == 5


def test_the_train_split_is_exactly_the_training_texts(tmp_path: Path) -> None:
    for num_bytes in (90, 91, 899, 1_000, 12_345):
        train = bytes(65 + i % 26 for i in range(num_bytes))
        path = train_base.compose(tmp_path / f"{num_bytes}.txt", train, b"valid\n")
        split = prepare([str(path)]).split("train")
        assert split.tokens.tobytes() == train


@pytest.mark.parametrize("name", ["no-such-file", "{}:2", "{}:0.5:0.2", "{}:x"])
def test_wrong_parts_of_texts_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = name.format(write_text(tmp_path, 100))
    assert train_base.main(["--train", name, "--valid", name]) == 2
    assert name in capsys.readouterr().err
