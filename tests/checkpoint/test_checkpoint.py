"""Model folders and checkpoints: what is written is read, what is damaged is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sharnn.checkpoint import (
    load_model,
    load_trainer_state,
    resolve_model_folder,
    save_checkpoint,
    save_model,
)
from sharnn.checkpoint.format import join_tree, split_tree
from sharnn.config import ModelConfig
from sharnn.errors import CheckpointError
from sharnn.model import LanguageModel
from sharnn.text import ByteTokenizer


def make_model(seed: int = 0, **settings: object) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(ModelConfig(**{"embed_dim": 16, "window": 8, **settings}))


def save(folder: Path, seed: int = 0, **settings: object) -> LanguageModel:
    model = make_model(seed, **settings)
    state = {"step": 7, "tensors": [torch.arange(3), {"deep": torch.ones(2)}], "none": None}
    save_checkpoint(folder, model, ByteTokenizer(), {"corpus": "zen"}, state)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"residual": True, "attention_layers": "all"},
        {"overparam_value_gate": False},
        {"architecture": "lstm", "window": None},
        {"architecture": "transformer"},
        {"split_softmax": [20, 100]},
    ],
)
def test_a_model_folder_brings_the_model_back(tmp_path: Path, settings: dict[str, object]) -> None:
    model = save(tmp_path / "model", **settings)
    loaded = load_model(tmp_path / "model")
    assert loaded.model.config == model.config
    assert not loaded.model.training
    assert loaded.card["corpus"] == "zen"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])
    assert "| corpus | zen |" in (tmp_path / "model" / "README.md").read_text()


def test_trainer_state_comes_back(tmp_path: Path) -> None:
    save(tmp_path / "model")
    state = load_trainer_state(tmp_path / "model")
    assert state["step"] == 7
    assert state["none"] is None
    assert torch.equal(state["tensors"][0], torch.arange(3))
    assert torch.equal(state["tensors"][1]["deep"], torch.ones(2))


def test_trees_split_and_join() -> None:
    tree = {"a": [1, (2.5, "x")], "b": {"c": torch.ones(2)}, "d": None}
    values, tensors = split_tree(tree)
    assert json.loads(json.dumps(values))
    joined = join_tree(values, tensors)
    assert joined["a"] == [1, [2.5, "x"]]
    assert torch.equal(joined["b"]["c"], torch.ones(2))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("damage", [truncate, flip_a_byte, remove])
def test_a_damaged_model_is_told(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "model"
    save(folder)
    damage(folder / name)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_model(folder)


@pytest.mark.parametrize("name", ["trainer.safetensors", "trainer.json"])
@pytest.mark.parametrize("damage", [truncate, remove])
def test_a_damaged_trainer_state_is_told(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "model"
    save(folder)
    damage(folder / name)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_trainer_state(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "trainer.safetensors"])
def test_a_file_from_another_folder_is_told(tmp_path: Path, name: str) -> None:
    save(tmp_path / "one", seed=1)
    save(tmp_path / "two", seed=2, window=9)
    (tmp_path / "two" / "trainer.safetensors").write_bytes(b"another state")
    shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)
    with pytest.raises(CheckpointError, match="another folder"):
        _load_both(tmp_path / "one")


def _load_both(folder: Path) -> None:
    load_model(folder)
    load_trainer_state(folder)


def test_weights_that_do_not_fit_the_settings_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(folder)
    config = json.loads((folder / "config.json").read_text())
    config["model"]["embed_dim"] = 24
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit the model's settings"):
        load_model(folder)


def test_a_newer_format_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(CheckpointError, match="has format 99"):
        load_model(folder)


def test_where_there_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no model at"):
        resolve_model_folder(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        resolve_model_folder(tmp_path / "file")
    with pytest.raises(CheckpointError, match="not a model folder"):
        resolve_model_folder(tmp_path)
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        resolve_model_folder(tmp_path)


def test_a_failed_save_leaves_the_old_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = save(folder)

    class Unwritable(ByteTokenizer):
        def to_json(self) -> dict[str, object]:
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="the disk is full"):
        save_model(folder, make_model(5), Unwritable(), {})
    loaded = load_model(folder).model
    assert torch.equal(loaded.embedding.weight, model.embedding.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
